// Random worlds whose engine is TensorRT-LLM: both capacity policies, both chunking policies, with and
// without overlap, pools so small that MAX_UTILIZATION pauses.
#pragma once

#include "world.h"

namespace orrery::world {

inline RandomWorld tensorrt_llm_world(std::uint64_t seed) {
  RandomWorld out = random_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 8);
  SchedulerConfig& c = out.world.config;
  out.world.scheduler = "tensorrt-llm";
  c.enable_chunked_prefill = r.below(2) == 0;
  c.long_prefill_token_threshold = 0;
  c.block_size = r.below(3) == 0 ? 64 : 32;
  c.num_gpu_blocks = static_cast<std::int64_t>(1 + r.below(4)) * c.max_model_len / c.block_size;
  if (r.below(6) == 0) c.max_num_batched_tokens = c.block_size;  // at times fewer tokens than sequences
  c.max_num_batched_tokens = std::max<std::int64_t>(c.max_num_batched_tokens, c.block_size);
  TensorRtLlmRules& rules = c.tensorrt_llm;
  rules.max_utilization = r.below(2) == 0;
  rules.equal_progress = r.below(3) == 0;
  rules.partial_reuse = r.below(4) != 0;
  rules.copy_on_partial_reuse = r.below(4) != 0;
  rules.store_at_first_chunk = r.below(2) == 0;
  return out;
}

}  // namespace orrery::world
