// Pipeline parallelism: which layers each stage has, and an instance's spec with one stage's part of the
// model, of which everything that concerns one GPU (graph, weights, KV cache) is asked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "costmodel/step_pricer.h"

namespace orrery {

// vLLM 0.24 (distributed/utils.py, get_pp_indices): layers ÷ pp each; of those left over one each to the last
// stage but one, the one before it and so on, never to the last. SGLang 0.5.23 (the same function of its
// distributed/utils.py): to the last ones. TensorRT-LLM 1.2 (`Mapping.pp_layers`): to the first ones. Sums to
// `layers`. Preconditions: pp ≥ 1, layers ≥ pp.
std::vector<std::int64_t> layers_of_stages(std::int64_t layers, std::int32_t pp,
                                           const std::string& engine = "vllm");

// The spec of stage `stage` of spec.plan.pp: its layers; the embedding on the first, norm and head on the
// last, a tied embedding on both.
InstanceSpec stage_spec(const InstanceSpec& spec, std::int32_t stage);

// Whether two stages hold the same: neither the first nor the last, and as many layers of each kind,
// handed over on equal links.
bool alike(const InstanceSpec& a, const InstanceSpec& b);

// After how many steps a sequence may run again, counted from the step that samples its token (vLLM 0.24):
// V2 runner pp (`next_decode_eligible_step`); V1 runner 1, although the tokens come from the last stage; 0
// without asynchronous scheduling: when its token has been processed.
std::int32_t token_cadence(const InstanceSpec& spec);

// Whether the engine drives stages by a ring of micro-batches (costmodel/ring_pipeline.h).
bool in_a_ring(const EngineProfile& engine);

// Settings of any engine whose rules beside stages are not modelled, by their names; empty = all are.
std::vector<std::string> not_modelled_in_stages(const SchedulerSettings& settings);

// Batches in flight (config/vllm.py, max_concurrent_batches).
std::int32_t batches_in_flight(const EngineProfile& engine, std::int32_t pp);

}  // namespace orrery
