#include "sim/run_totals.h"

#include <algorithm>

namespace orrery {

void add_counters(const Scheduler& s, PoolResult& pool, RunResult& r) {
  r.preemptions += s.counters().preemptions;
  r.speculation.add(s.counters().speculation);
  r.steps += s.next_step().value() - s.counters().empty_batches;
  const OffloadCounters tier = s.offload_counters();
  r.offload.capacity += tier.capacity;
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
  const double free =
      static_cast<double>(s.counters().min_free_blocks) / static_cast<double>(kv.usable_blocks);
  pool.peak_utilization = std::max(pool.peak_utilization, 1.0 - free);
  pool.kv_blocks = kv.total_blocks;
}

}  // namespace orrery
