// Random worlds whose engine is TensorRT-LLM: both capacity policies, both chunking policies, with and
// without overlap, pools so small that MAX_UTILIZATION pauses.
#pragma once

#include <memory>

#include "sim/speculation.h"
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

inline void keep_in_host_memory(World& w, RandomStream& r) {
  w.config.offload.blocks = 1 + static_cast<std::int64_t>(r.below(400));
  w.host_blocks_per_s = 10.0 + static_cast<double>(r.below(40000));
}

// Without reuse, and with a second pool for layers that keep a window; at times it is the smaller one.
inline RandomWorld tensorrt_llm_windows_world(std::uint64_t seed) {
  RandomWorld out = tensorrt_llm_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 11);
  SchedulerConfig& c = out.world.config;
  c.enable_prefix_caching = false;
  if (c.enable_chunked_prefill)  // §3.2: prompts are cut at 256 tokens
    c.max_num_batched_tokens = std::max<std::int64_t>(c.max_num_batched_tokens, 256);
  c.tensorrt_llm.window = 1 + static_cast<std::int64_t>(r.below(600));
  c.tensorrt_llm.window_blocks = static_cast<std::int64_t>(1 + r.below(3)) * c.max_model_len / c.block_size;
  return out;
}

// The same with reuse in both pools.
inline RandomWorld tensorrt_llm_reused_windows_world(std::uint64_t seed) {
  RandomWorld out = tensorrt_llm_windows_world(seed);
  out.world.config.enable_prefix_caching = true;
  return out;
}

// The same with what a deployment may add to it. What it draws, it draws behind everything above, so that the
// worlds without stay as they are.
struct FeaturedWorld {
  RandomWorld random;
  std::unique_ptr<SampledAcceptance> acceptance;  // who decides, with speculation
};

inline FeaturedWorld tensorrt_llm_featured_world(std::uint64_t seed) {
  FeaturedWorld out{tensorrt_llm_world(seed), nullptr};
  RandomStream r(seed, RandomPurpose::property_test, 9);
  World& w = out.random.world;
  const auto k = static_cast<std::int32_t>(1 + r.below(4));
  std::vector<double> p;
  for (std::int32_t i = 0; i < k; ++i) p.push_back(r.uniform());
  const std::uint64_t kind = r.below(4);  // MTP, EAGLE-3 in one engine, in two, n-grams
  const double match_rate = r.uniform();
  const std::uint64_t most = r.below(3) == 0 ? 1 + r.below(20) : 0;
  out.acceptance = std::make_unique<SampledAcceptance>(seed, p, kind == 3 ? match_rate : 1);
  w.acceptance = out.acceptance.get();
  SpeculationRules& rules = w.config.speculation;
  rules.tokens = k;
  rules.lookahead = kind == 1 ? k - 1 : 0;
  rules.padded = kind == 3;
  rules.max_concurrency = kind >= 2 ? static_cast<std::int32_t>(most) : 0;
  w.config.max_num_batched_tokens = std::max<std::int64_t>(w.config.max_num_batched_tokens, 1 + k);
  w.spec.engine.engine = "tensorrt-llm";
  w.spec.engine.settings.draft_tokens = k;
  w.spec.model.mtp_layers = 1;
  w.spec.speculation.method = kind == 0   ? SpeculationMethod::mtp
                              : kind == 3 ? SpeculationMethod::ngram
                                          : SpeculationMethod::eagle;
  w.spec.speculation.tokens = k;
  w.spec.speculation.one_model = kind != 2;
  w.spec.speculation.draft.intermediate = 12288;
  if (kind == 3) w.spec.engine.steps_in_flight = 1;
  if (r.below(2) == 0) keep_in_host_memory(w, r);
  return out;
}

// Without speculation, so that stretches are there: a tier that at times holds less than the device.
inline RandomWorld tensorrt_llm_tier_world(std::uint64_t seed) {
  RandomWorld out = tensorrt_llm_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 10);
  keep_in_host_memory(out.world, r);
  return out;
}

}  // namespace orrery::world
