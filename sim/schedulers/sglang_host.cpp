// HiCache: the tier in host memory (§4; `PrefillAdder.add_one_req`, `UnifiedRadixCache.load_back`,
// `_execute_and_commit_kv_backup`, `check_hicache_events`): what an admitted request brings back, and which
// copies are crossing the link.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

// The whole of what host memory holds behind the device's prefix, or nothing: the copy crosses the link layer
// by layer while the batch runs. Tokens that came back.
std::int64_t SglangScheduler::load_back(Sequence& s, const RadixCache::Match& hit) {
  if (hit.full_tokens == hit.tokens) return 0;
  const std::int64_t tokens = cache_.load(hit.full_node, config_.load_back_threshold);
  if (tokens == 0) return 0;
  unlock_prefix(s);
  lock_prefix(s, hit.full_node);
  s.prefix = s.in_tree = hit.full_tokens;
  const std::int64_t pages = tokens / config_.cache.page_size;
  plan_loads_ += pages;
  ++host_.loads;
  host_.loaded += static_cast<std::uint64_t>(pages);
  host_loads_.push_back({s.request, tokens});
  digest_.add(s.request.value() * 4);
  digest_.add(tokens);
  return tokens;
}

void SglangScheduler::issue_backups(bool behind_step) {
  for (const RadixCache::Backup& backup : cache_.take_backups()) {
    const std::int64_t pages = (backup.end - backup.begin) / config_.cache.page_size;
    open_backups_.push_back({next_transfer_, backup});
    issued_.push_back({.direction = TransferWork::Direction::to_host,
                       .id = next_transfer_++,
                       .blocks = pages,
                       .behind_step = behind_step});
    host_.stored += static_cast<std::uint64_t>(pages);
  }
}

// write_back: copies that evictions waited for since the last step.
void SglangScheduler::plan_host_work() {
  const std::int64_t page = config_.cache.page_size;
  plan_blocking_ += cache_.take_blocking_backups() / page;
  plan_.load_blocks = std::exchange(plan_loads_, 0);
  plan_.blocking_store_blocks = std::exchange(plan_blocking_, 0);
  host_.stored += static_cast<std::uint64_t>(plan_.blocking_store_blocks);
  if (plan_.blocking_store_blocks > 0) digest_.add(plan_.blocking_store_blocks);
}

std::span<const TransferWork> SglangScheduler::take_transfers() {
  taken_ = std::exchange(issued_, {});
  return taken_;
}

// The node can be evicted from now on.
bool SglangScheduler::on_transfer(std::uint64_t transfer) {
  const auto open = std::find_if(open_backups_.begin(), open_backups_.end(),
                                 [&](const OpenBackup& b) { return b.id == transfer; });
  ORRERY_CHECK(open != open_backups_.end(), "a transfer that ends was issued");
  cache_.end_backup(open->backup);
  open_backups_.erase(open);
  transfer_digest_.add(transfer);
  return !waiting_.empty();
}

OffloadCounters SglangScheduler::offload_counters() const {
  OffloadCounters c = host_;
  const std::int64_t page = config_.cache.page_size;
  c.capacity = config_.cache.host_tokens / page;
  c.used = cache_.host_used() / page;
  c.dropped = static_cast<std::uint64_t>(cache_.host_dropped_in_total() / page);
  return c;
}

std::uint64_t SglangScheduler::digest() const {
  if (!cache_.tiered()) return digest_.value();
  Digest both = digest_;
  both.add(transfer_digest_.value());
  return both.value();
}

}  // namespace orrery
