// HiCache: the tier in host memory (§4; `PrefillAdder.add_one_req`, `UnifiedRadixCache.load_back`,
// `_execute_and_commit_kv_backup`, `check_hicache_events`): what an admitted request brings back, and which
// copies are crossing the link.
#include <algorithm>
#include <utility>

#include "sim/schedulers/sglang.h"

namespace orrery {

// The whole of what host memory holds behind the device's prefix, or nothing: the copy crosses the link layer
// by layer while the batch runs. Tokens by which the prefix grew: beside windows that may be more than were
// loaded, where the device had all but their windowed slots.
std::int64_t SglangScheduler::load_back(Sequence& s, const RadixCache::Match& hit) {
  if (hit.best_tokens == hit.tokens) return 0;
  const RadixCache::Loaded loaded = cache_.load(hit.best_node, config_.load_back_threshold);
  if (!loaded.any()) {
    if (cache_.stateful() && hit.tokens > 0) copy_state(s, hit.node);
    return 0;
  }
  unlock_prefix(s);
  lock_prefix(s, hit.best_node);
  s.prefix = s.in_tree = hit.best_tokens;
  if (cache_.stateful()) copy_state(s, hit.best_node);
  // A state comes twice, for the node and into the request's own slot (`build_hicache_transfers`).
  const std::int64_t blocks = host_blocks(loaded.full, loaded.windowed, 2 * loaded.states);
  plan_loads_ += blocks;
  ++host_.loads;
  host_.loaded += static_cast<std::uint64_t>(blocks);
  host_loads_.push_back({s.request, hit.best_tokens - hit.tokens});
  digest_.add(s.request.value() * 4);
  digest_.add(blocks * config_.cache.page_size);
  return hit.best_tokens - hit.tokens;
}

// Pages; beside windows pages of an equal part of the layers, of which the two kinds have so many each.
std::int64_t SglangScheduler::host_blocks(std::int64_t full, std::int64_t windowed,
                                          std::int64_t states) const {
  const std::int64_t page = config_.cache.page_size;
  return full / page * config_.full_parts + windowed / page * config_.window_parts +
         states * config_.state_pages;
}

// `flush_pending_backups`, when a result has been processed and when a pass begins: all that was to be copied
// becomes one copy (HiCacheController.start_writing), whose end is that of all its nodes (HiCacheAck). It
// waits for the step in flight, which may still write what is copied (`write_fence_stream`).
// `check_hicache_events` looks for ends when a pass begins; nobody asks in between.
void SglangScheduler::flush_backups() {
  if (!cache_.tiered()) return;
  std::vector<RadixCache::Backup> backups = cache_.take_backups();
  if (backups.empty()) return;
  std::int64_t blocks = 0;
  for (const RadixCache::Backup& b : backups) blocks += host_blocks(b.full, b.windowed, b.states);
  open_backups_.push_back({next_transfer_, std::move(backups)});
  issued_.push_back({.direction = TransferWork::Direction::to_host,
                     .id = next_transfer_++,
                     .blocks = blocks,
                     .behind_step = !open_.empty()});
  host_.stored += static_cast<std::uint64_t>(blocks);
}

// write_back: copies that evictions waited for since the last step.
void SglangScheduler::plan_host_work() {
  plan_blocking_ += host_blocks(cache_.take_blocking_backups(), cache_.take_blocking_windows(),
                                cache_.take_blocking_states());
  plan_.load_blocks = std::exchange(plan_loads_, 0);
  plan_.blocking_store_blocks = std::exchange(plan_blocking_, 0);
  host_.stored += static_cast<std::uint64_t>(plan_.blocking_store_blocks);
  if (plan_.blocking_store_blocks > 0) digest_.add(plan_.blocking_store_blocks);
}

std::span<const TransferWork> SglangScheduler::take_transfers() {
  taken_ = std::exchange(issued_, {});
  return taken_;
}

// Its nodes can be evicted from now on.
bool SglangScheduler::on_transfer(std::uint64_t transfer) {
  const auto open = std::find_if(open_backups_.begin(), open_backups_.end(),
                                 [&](const OpenBackup& b) { return b.id == transfer; });
  ORRERY_CHECK(open != open_backups_.end(), "a transfer that ends was issued");
  for (const RadixCache::Backup& backup : open->backups) cache_.end_backup(backup);
  open_backups_.erase(open);
  transfer_digest_.add(transfer);
  return !waiting_.empty();
}

OffloadCounters SglangScheduler::offload_counters() const {
  OffloadCounters c = host_;
  c.capacity =
      host_blocks(config_.cache.host_tokens, config_.cache.host_windowed_tokens, config_.cache.host_states);
  c.used = host_blocks(cache_.host_used(), cache_.host_windowed_used(), cache_.host_states_used());
  c.dropped = static_cast<std::uint64_t>(host_blocks(cache_.host_dropped_in_total(),
                                                     cache_.host_windowed_dropped_in_total(),
                                                     cache_.host_states_dropped_in_total()));
  return c;
}

std::uint64_t SglangScheduler::digest() const {
  if (!cache_.tiered()) return digest_.value();
  Digest both = digest_;
  both.add(transfer_digest_.value());
  return both.value();
}

}  // namespace orrery
