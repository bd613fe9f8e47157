// SGLang's memory for layers that keep a state: a pool of slots beside the KV cache, each the state of one
// sequence in all layers (0.5.23: mem_cache/kv_cache_configurator.py, `_handle_max_mamba_cache` and
// `_calculate_mamba_ratio`; arg_groups/mamba_hook.py; docs/state_layers.md).
#pragma once

#include "base/named_options.h"
#include "base/quantity.h"
#include "base/result.h"
#include "base/yaml_reader.h"

namespace orrery {

struct EngineProfile;
struct InstanceSpec;
struct MemoryPlan;
struct ModelSpec;
struct ParallelPlan;

struct StatePoolArguments {
  EngineProfile& engine;
  NamedOptions& options;
  const ParallelPlan& plan;
  const Yaml args, place;
};

// The strategy (`_mamba_radix_cache_resolution`) and the type of the state; what is not modelled beside
// states is refused. For a model without states the arguments say nothing.
void choose_state_pool(const StatePoolArguments& arguments, ModelSpec& model);

// Sets the plan's slots and returns what they take of `kv_available`; 0 for a model without states.
Bytes share_states(const InstanceSpec& spec, MemoryPlan& plan);

// Running requests that have the slots they need (`resolve_max_num_reqs`).
std::int64_t sequences_by_states(const InstanceSpec& spec, const MemoryPlan& plan);

Status check_state_pool(const InstanceSpec& spec, const MemoryPlan& plan);

}  // namespace orrery
