#include "sim/ensemble/capacity.h"

#include <cmath>

namespace orrery {

void add_capacity(const Scenario& scenario, const CapacityPool& pool, Intervals& intervals) {
  const PoolSpec& first = scenario.pool;
  intervals.capacity_deviations = pool.deviations;
  if (first.role == PoolRole::encoder || first.memory.kv_blocks <= 0) return;
  const KvInterval ends = kv_interval(first.memory, pool.deviations),
                   normal = kv_interval(first.memory, normal_deviations);
  const auto blocks = static_cast<double>(first.memory.kv_blocks);
  const bool moved = pool.rows > 0 && ends.low < ends.high;
  // Tokens follow the blocks, also where windows or states make a token's share of them uneven.
  const auto add = [&](const char* name, double of_plan) {
    const auto at = [&](std::int64_t end) {
      return std::floor(of_plan * (static_cast<double>(end) / blocks) + 1e-6);
    };
    intervals.metrics.push_back({.name = name,
                                 .nominal = of_plan,
                                 .low = at(ends.low),
                                 .high = at(ends.high),
                                 .correction = moved ? "kv_cache, block counts logged by vLLM" : "",
                                 .prices_low = at(normal.low),
                                 .prices_high = at(normal.high)});
  };
  add(kv_blocks_metric, blocks);
  add(kv_tokens_metric, static_cast<double>(first.memory.kv_tokens()));
}

}  // namespace orrery
