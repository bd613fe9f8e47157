// Context parallelism in a scenario: vLLM's arguments for it, and what is modelled of it beside what
// (docs/context_parallel.md).
#pragma once

#include <string>

#include "base/yaml_reader.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// vLLM's decode_context_parallel_size, cp_kv_cache_interleave_size and dcp_…; true = it was one of them.
bool apply_context_argument(const std::string& name, const Yaml& value, EngineProfile& engine);
// After all arguments: blocks of all ranks together, and what vLLM asserts when it starts.
void finish_split_cache(EngineProfile& engine, const HardwareProfile& hardware, const ModelSpec& model,
                        const ParallelPlan& plan, const Yaml& args);

// `parallel.cp`: whether the engine's is modelled, and for this model and part. Before any argument is known;
// false = reported at the key.
bool check_context_ranks(const InstanceSpec& spec, const Yaml& node);
// What of the deployment is not modelled beside a split cache.
void check_split_cache(const InstanceSpec& spec, const Yaml& node);

}  // namespace orrery
