// TensorRT-LLM's part of engine profiles: its defaults and what its arguments mean. Rules and their sources:
// ../shared/reference/tensorrt_llm_1_2.md.
#pragma once

#include "costmodel/engine_profile.h"

namespace orrery {

void read_tensorrt_llm(const Yaml& root, EngineProfile& e);
void resolve_tensorrt_llm(EngineProfile& engine, const HardwareProfile& hardware, ModelSpec& model,
                          const ParallelPlan& plan, const Yaml& args, const Yaml& place);

}  // namespace orrery
