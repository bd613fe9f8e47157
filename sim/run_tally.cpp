#include "sim/run_tally.h"

#include <algorithm>

namespace orrery {

RunTally::RunTally(const std::vector<PoolSetup>& pools) {
  for (std::size_t p = 0; p < pools.size(); ++p) {
    PoolResult& result = sums_.pools.emplace_back();
    result.name = pools[p].name;
    result.role = pools[p].role;
    result.first_instance = static_cast<std::int64_t>(places_.size());
    result.instances = static_cast<std::int64_t>(pools[p].instances);
    for (std::size_t i = 0; i < pools[p].instances; ++i) places_.push_back({.pool = p, .digests = {}});
  }
}

void RunTally::add(std::size_t instance, const Instance& of, bool last) {
  const Scheduler& s = of.scheduler();
  Place& place = places_[instance];
  RunResult& r = sums_;
  place.digests.push_back(of.digest());
  r.stretches += of.stretches();
  queried_ += s.counters().queried_tokens;
  hit_ += s.counters().hit_tokens;
  r.preemptions += s.counters().preemptions;
  r.speculation.add(s.counters().speculation);
  r.steps += s.next_step().value() - s.counters().empty_batches;
  const OffloadCounters tier = s.offload_counters();
  if (last) r.offload.capacity += tier.capacity;
  r.offload.stored += tier.stored;
  r.offload.loaded += tier.loaded;
  r.offload.dropped += tier.dropped;
  r.offload.loads += tier.loads;
  r.offload.deferrals += tier.deferrals;
  r.offload.refused += tier.refused;
  const EncoderCounters images = s.encoder_counters();
  r.images.encoded += images.encoded;
  r.images.embeddings += images.embeddings;
  r.images.found += images.found;
  r.images.cache_size = images.cache_size;
  r.images.cache_peak = std::max(r.images.cache_peak, images.cache_peak);
  const KvUsage kv = s.kv_usage();
  const double usable = static_cast<double>(kv.usable_blocks);
  PoolResult& pool = r.pools[place.pool];
  pool.peak_utilization =
      std::max(pool.peak_utilization, 1.0 - static_cast<double>(s.counters().min_free_blocks) / usable);
  pool.kv_blocks = kv.total_blocks;
  if (pool.role == PoolRole::encoder) return;  // keeps no KV
  place.keeps_kv = true;
  place.wraps += static_cast<double>(kv.allocated) / usable;
}

void RunTally::finish(RunResult& result, Digest& digest) const {
  result.pools = sums_.pools;
  result.stretches = sums_.stretches;
  result.preemptions = sums_.preemptions;
  result.speculation = sums_.speculation;
  result.steps = sums_.steps;
  result.offload = sums_.offload;
  result.images = sums_.images;
  result.prefix_cache_hit_rate =
      queried_ == 0 ? 0 : static_cast<double>(hit_) / static_cast<double>(queried_);
  const auto fewer = [](const Place& a, const Place& b) {
    return a.keeps_kv != b.keeps_kv ? a.keeps_kv : a.wraps < b.wraps;
  };
  result.kv_wraps = std::min_element(places_.begin(), places_.end(), fewer)->wraps;
  for (const Place& place : places_)
    for (const std::uint64_t life : place.digests) digest.add(life);
}

}  // namespace orrery
