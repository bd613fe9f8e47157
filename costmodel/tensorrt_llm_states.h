// TensorRT-LLM's cache of layers that keep a state: `MambaHybridCacheManager`
// (_torch/pyexecutor/mamba_cache_manager.py of autumn 2025): max_batch_size states beside the KV cache, one a
// request, taken with its first chunk and given back with its blocks. No prefix is found again.
#pragma once

#include "base/quantity.h"
#include "base/yaml_reader.h"

namespace orrery {

struct EngineProfile;
struct InstanceSpec;
struct MemoryPlan;
struct ModelSpec;

// kv_cache_config.mamba_ssm_cache_dtype; null: not given.
void resolve_tensorrt_llm_states(EngineProfile& engine, ModelSpec& model, const Yaml& type, const Yaml& args,
                                 const Yaml& place);

// What the states of max_batch_size requests take on a rank; 0 for other engines and models.
Bytes states_of_batch(const InstanceSpec& spec, const MemoryPlan& plan);

}  // namespace orrery
