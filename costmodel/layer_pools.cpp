// Pools by kinds of layers, on the device and in host memory.
#include <algorithm>

#include "costmodel/host_block.h"
#include "costmodel/speculation.h"

namespace orrery {

LayerParts cached_parts(const InstanceSpec& spec) {
  return layer_parts(spec.model, draft_layers_cached(spec.speculation, spec.model, spec.engine.engine));
}

namespace {

std::int64_t layers_of(const LayerParts& parts) { return parts.layers * (parts.full + parts.windowed); }

}  // namespace

Bytes host_block_bytes(const InstanceSpec& spec, const MemoryPlan& plan) {
  const Bytes block = plan.kv_bytes_per_token * static_cast<double>(plan.block_size);
  const LayerParts parts = cached_parts(spec);
  const auto of_all = static_cast<double>(layers_of(parts));
  if (plan.windowed_pool_tokens > 0 || plan.windowed_blocks > 0)
    return block * (static_cast<double>(parts.layers) / of_all);
  if (plan.groups.simple()) return block;
  return block * (static_cast<double>(plan.groups.layers) / of_all);
}

// §4.6, VSWA: each window size has an equal share of the memory, whatever it needs (`calculateMaxNumBlocks`,
// `calculateWindowSizeToShare` of kvCacheManager.cpp), and max_tokens says nothing. Returns the blocks of the
// layers that keep everything. Each has a tier of as large a share of a rank's host_cache_size.
std::int64_t blocks_by_window(const InstanceSpec& spec, MemoryPlan& plan, double bytes) {
  const SchedulerSettings& s = spec.engine.settings;
  const LayerParts parts = cached_parts(spec);
  const double layer = plan.kv_bytes_per_token.value() / static_cast<double>(layers_of(parts));
  const auto tokens = [&](double memory, std::int64_t count) {
    return static_cast<std::int64_t>(memory / 2 / (layer * static_cast<double>(parts.layers * count)));
  };
  const auto blocks = [&](std::int64_t count) {
    return (tokens(bytes, count) + plan.block_size - 1) / plan.block_size;
  };
  plan.windowed_blocks = blocks(parts.windowed);
  const double tier = static_cast<double>(s.kv_offload_bytes) / static_cast<double>(spec.plan.tp);
  plan.windowed_host_blocks = tokens(tier, parts.windowed) / plan.block_size;
  plan.host_blocks = tokens(tier, parts.full) / plan.block_size;
  return blocks(parts.full);
}

}  // namespace orrery
