// Worlds whose instances have ranks of attention data parallelism, under SGLang's rules.
#pragma once

#include "world.h"

namespace orrery::world {

inline InstanceSpec rank_spec(std::int32_t ranks, bool prefill_graphs = false) {
  InstanceSpec spec = hand::instance(hand::mixture());
  spec.plan.dp = spec.plan.ep = ranks;
  SchedulerSettings& s = spec.engine.settings;
  s.graphs_by_phase = true;
  s.widest_padding = 2;
  if (prefill_graphs) s.prefill_graph_sizes = {4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  if (ranks > 1)
    s.joint = {.ranks = ranks, .rule = JointRule::sglang, .row_bytes = 2 * 2048, .sum_bytes = 1e5};
  return spec;
}

inline RandomWorld random_rank_world(std::uint64_t seed) {
  RandomWorld out = random_sglang_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 11);
  const std::int32_t ranks[] = {2, 4, 8};
  out.world.spec = rank_spec(ranks[r.below(3)], r.below(2) == 0);
  out.world.replicas = 1 + r.below(2);
  return out;
}

}  // namespace orrery::world
