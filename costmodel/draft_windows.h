// A drafting network beside TensorRT-LLM's kv_cache_config.max_attention_window.
#pragma once

#include "base/yaml_reader.h"
#include "costmodel/instance_spec.h"

namespace orrery {

// Which layers of the network the list would cut: an error at the list. After the engine's arguments are
// read.
void check_draft_windows(const InstanceSpec& spec, const Yaml& args);

}  // namespace orrery
