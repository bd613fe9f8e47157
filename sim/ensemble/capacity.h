// The interval of what a pool's KV cache holds: the memory plan's doubt, in as many deviations as logged
// block counts say (CapacityPool). No run has a part in it.
#pragma once

#include "sim/costed/scenario.h"
#include "sim/ensemble/ensemble.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

// Of the first pool, as `kv_cache` of summary.json.
constexpr const char* kv_blocks_metric = "kv_cache.blocks";
constexpr const char* kv_tokens_metric = "kv_cache.tokens";

// Adds both metrics; an encoder pool has no cache.
void add_capacity(const Scenario& scenario, const CapacityPool& pool, Intervals& intervals);

}  // namespace orrery
