// Random worlds of SGLang in which its other features are on: each draws some of them.
#pragma once

#include "costmodel/draft_trees.h"
#include "sim/costed/draft_paths.h"
#include "world.h"

namespace orrery::world {

// A network's drafts, of which so many are accepted.
inline void draft(World& w, const SpeculationRules& rules, const std::vector<double>& acceptance,
                  std::uint64_t seed, double found = 1) {
  w.own_acceptance = std::make_shared<SampledAcceptance>(seed, acceptance, found);
  w.acceptance = w.own_acceptance.get();
  w.config.speculation = rules;
  w.spec.engine.settings.draft_tokens = rules.tokens;
  w.spec.speculation.method = SpeculationMethod::eagle;
  w.spec.speculation.tokens = rules.tokens;
  w.spec.speculation.draft.intermediate = 12288;
}

inline void speculate(World& w, RandomStream& r) {
  const auto k = static_cast<std::int32_t>(1 + r.below(4));
  std::vector<double> acceptance;
  for (std::int32_t i = 0; i < k; ++i) acceptance.push_back(r.uniform());
  const bool network = r.below(3) != 0;
  const double found = network ? 1 : r.uniform();
  draft(w, {.tokens = k, .lookahead = network ? k : 0, .drops_last_hit = network}, acceptance, r.below(1000),
        found);
  if (!network) w.spec.speculation.method = SpeculationMethod::ngram;
  w.spec.engine.host.ngram_token = hand::us(0.001);
  // A sequence holds slots for two verifications ahead of its context, in whole pages.
  w.config.num_gpu_blocks += 64 / w.config.block_size;
}

// A network's tree: more is verified than can be accepted, and more slots are taken than are verified.
inline void branch_out(World& w, RandomStream& r) {
  const auto depth = static_cast<std::int32_t>(1 + r.below(4)),
             branches = static_cast<std::int32_t>(2 + r.below(3));
  const auto most = static_cast<std::uint64_t>(eagle_candidates(depth, branches));
  const auto verified = static_cast<std::int32_t>(2 + r.below(std::min<std::uint64_t>(most, 12)));
  std::vector<std::vector<double>> chances;
  for (std::int32_t d = 0; d < depth; ++d) {
    std::vector<double> row;
    for (double left = 1; row.size() < static_cast<std::size_t>(branches); left -= row.back())
      row.push_back(std::min(left * r.uniform(), row.empty() ? 1.0 : row.back()));
    chances.push_back(row);
  }
  const auto tree = std::make_shared<const DraftTree>(eagle_tree(chances, branches, verified));
  w.own_acceptance = std::make_shared<SampledAcceptance>(draft_paths(*tree), r.below(1000), 1);
  w.acceptance = w.own_acceptance.get();
  SpeculationSpec& s = w.spec.speculation;
  s.method = SpeculationMethod::eagle;
  s.tokens = depth;
  s.branches = branches;
  s.tree = tree;
  s.verified = verified;
  s.tree_attention = r.below(2) == 0 ? TreeAttention::cascade : TreeAttention::masked;
  s.draft.intermediate = 12288;
  const std::int64_t slots = slots_of_decode(s, w.config.block_size);
  w.config.speculation = {
      .tokens = verified - 1, .depth = depth, .slots = slots, .lookahead = depth, .drops_last_hit = true};
  w.spec.engine.settings.draft_tokens = verified - 1;
  w.config.num_gpu_blocks += 2 * slots / w.config.block_size + 4;
}

// A pool of their own for layers with a window, as small as the longest prompt allows.
inline void window(World& w, RandomStream& r) {
  const std::int32_t windows[] = {16, 33, 128, 512};
  const std::int64_t window = windows[r.below(4)], page = w.config.block_size;
  const std::int64_t tokens = w.config.num_gpu_blocks * page;
  const std::int64_t chunk = w.config.options.integer("chunked_prefill_size");
  const std::int64_t least = 3 * (window + 128 + 2 * page) + (chunk > 0 ? chunk : 4200);
  const std::int64_t share = tokens * static_cast<std::int64_t>(20 + r.below(81)) / 100;
  w.config.kv_groups = {.full = 1,
                        .windowed = 1,
                        .window = static_cast<std::int32_t>(window),
                        .windowed_tokens = std::max(least, share)};
}

// A tier in host memory, smaller or larger than the device's, and a link slow enough to matter.
inline void tier(World& w, RandomStream& r) {
  w.config.offload.blocks = w.config.num_gpu_blocks * static_cast<std::int64_t>(10 + r.below(300)) / 100;
  w.host_blocks_per_s = (r.below(2) == 0 ? 2e4 : 1e6) / w.config.block_size;
  const char* policies[] = {"write_through", "write_through_selective", "write_back"};
  w.config.options.set("hicache_write_policy", std::string(policies[r.below(3)]));
}

// Priorities from −30 to 30, so that differences are on both sides of the threshold.
inline void prioritize(RandomWorld& out, RandomStream& r) {
  NamedOptions& o = out.world.config.options;
  o.set("enable_priority_scheduling", true);
  o.set("disable_priority_preemption", r.below(4) == 0);
  o.set("schedule_low_priority_values_first", r.below(2) == 0);
  o.set("schedule_policy", std::string(r.below(2) == 0 ? "fcfs" : "lof"));
  o.set("retraction_policy", std::string(r.below(2) == 0 ? "length" : "priority"));
  for (TraceRequest& q : out.requests) q.priority = static_cast<std::int32_t>(r.below(61)) - 30;
}

inline RandomWorld random_sglang_features(std::uint64_t seed) {
  RandomWorld out = random_sglang_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 9);
  const std::uint64_t kind = r.below(4);
  if (kind == 0) {
    speculate(out.world, r);
    RandomStream both(seed, RandomPurpose::property_test, 10);
    if (both.below(2) == 0)
      window(out.world, both);
    else if (both.below(2) == 0)
      tier(out.world, both);
  }
  if (kind == 1) {
    window(out.world, r);
    RandomStream both(seed, RandomPurpose::property_test, 12);
    if (both.below(2) == 0) {
      tier(out.world, both);
      if (both.below(2) == 0) out.world.config.tensorrt_llm.window_parts = 3;
      out.world.config.options.set(
          "hicache_write_policy",
          std::string(both.below(2) == 0 ? "write_through" : "write_through_selective"));
    }
  }
  if (kind == 2) tier(out.world, r);
  if (r.below(2) == 0) prioritize(out, r);
  if (r.below(4) == 0)
    out.world.config.options.set("max_queued_requests", static_cast<std::int64_t>(1 + r.below(20)));
  return out;
}

}  // namespace orrery::world
