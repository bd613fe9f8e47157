// The second pool of a radix cache, for layers with a sliding window (../shared/reference/sglang_0_5.md §4;
// facts from mem_cache/unified_cache/components/swa.py of 0.5.23): which nodes have their windowed slots,
// which of them are locked, and in what order they are given up.
#include <algorithm>

#include "base/check.h"
#include "sim/radix_cache.h"

namespace orrery {

void RadixCache::requeue_window(Node id) {
  Record& node = nodes_[id];
  const bool idle = node.live && node.window_locks == 0;
  if (idle == node.window_queued) return;
  node.window_queued = idle;
  if (idle)
    idle_windows_.insert({node.window_used, id});
  else
    idle_windows_.erase({node.window_used, id});
}

// The end of a look-up or of an insertion is the newest, then what lies before it, a window and a page far
// (`reset_node_and_window_ancestors_mru`).
void RadixCache::touch_window(Node end) {
  std::int64_t time = now(), covered = 0;
  for (Node id = end; id != root && covered < config_.window + config_.page_size; id = nodes_[id].parent) {
    Record& node = nodes_[id];
    covered += node.end - node.begin;
    if (node.window_queued) idle_windows_.erase({node.window_used, id});
    node.window_queued = false;
    node.window_used = time--;
    requeue_window(id);
  }
}

// All nodes of the segment count, live or not, so that the release mirrors it; what was split meanwhile has
// kept its locks.
std::int64_t RadixCache::lock_window(Node node) {
  std::int64_t begin = nodes_[node].end;
  const std::int64_t end = begin;
  for (Node id = node; id != root && end - begin < config_.window; id = nodes_[id].parent) {
    Record& record = nodes_[id];
    const std::int64_t size = record.end - record.begin;
    begin = record.begin;
    if (record.window_locks++ > 0 || !record.live) continue;
    windowed_.evictable -= size;
    windowed_.locked += size;
    requeue_window(id);
  }
  return begin;
}

void RadixCache::unlock_window(Node node, std::int64_t begin) {
  for (Node id = node; id != root && nodes_[id].begin >= begin; id = nodes_[id].parent) {
    Record& record = nodes_[id];
    ORRERY_CHECK(record.window_locks > 0, "radix cache: a window unlocked more often than locked");
    if (--record.window_locks > 0 || !record.live) continue;
    windowed_.locked -= record.end - record.begin;
    windowed_.evictable += record.end - record.begin;
    requeue_window(id);
  }
}

void RadixCache::give_back_windowed(std::int64_t tokens) {
  ORRERY_CHECK(tokens <= windowed_.held, "radix cache: more windowed slots given back than were taken");
  windowed_.held -= tokens;
  windowed_.available += tokens;
}

void RadixCache::give_up_window(Node id) {
  const std::int64_t size = size_of(id);
  ORRERY_CHECK(nodes_[id].window_locks == 0, "radix cache: a locked window is not given up");
  nodes_[id].live = false;
  requeue_window(id);
  if (nodes_[id].host_live) requeue_host_window(id);
  windowed_.evictable -= size;
  windowed_.available += size;
}

// A leaf goes as a whole, an inner node (or one that is locked for the other layers) keeps their slots. With
// write_back a node without a copy is copied first, if there is room (`_evict_device_next_node` of swa.py).
bool RadixCache::evict_first_window() {
  if (idle_windows_.empty()) return false;
  const Node id = idle_windows_.begin()->second;
  if (nodes_[id].queued) {
    drop_leaf(id);
    return true;
  }
  const bool writes_back = tiered() && config_.backup_at_hits == 0 && nodes_[id].device;
  if (writes_back && !nodes_[id].host && !nodes_[id].host_live && !unbacked_windows(id).empty()) back_up(id);
  give_up_window(id);
  return true;
}

// The sequence's windowed slots become the node's.
void RadixCache::revive(Node id) {
  const std::int64_t size = size_of(id);
  nodes_[id].live = true;
  if (nodes_[id].host_live) requeue_host_window(id);
  windowed_.held -= size;
  (nodes_[id].window_locks > 0 ? windowed_.locked : windowed_.evictable) += size;
  ORRERY_CHECK(windowed_.held >= 0, "radix cache: windowed slots that nobody held");
  requeue_window(id);
}

// [begin, end) is cached already. Where the node has lost its windowed slots the sequence's take their place;
// elsewhere they are free again.
void RadixCache::take_over_windows(Node node, std::int64_t begin, std::int64_t end, const Insertion& how) {
  const std::int64_t from = std::max(begin, how.window_begin);
  if (from >= end) return;
  if (nodes_[node].live) return give_back_windowed(end - std::max(from, how.begin));
  if (from > begin) split(node, from);
  revive(node);
}

// What lies before the sequence's window has no windowed slots. Of the rest the last window is a node of its
// own, so that a lock holds no more than that (`_maybe_split_leaf_for_swa_lock`).
void RadixCache::make_leaf_live(Node leaf, const Insertion& how) {
  const std::int64_t begin = nodes_[leaf].begin, end = nodes_[leaf].end;
  const std::int64_t from = std::max(begin, how.window_begin), last = end - page_ceil(config_.window);
  if (from >= end) return;
  if (from > begin) split(leaf, from);
  revive(leaf);
  if (last > from) split(leaf, last);
}

void RadixCache::check_windows() const {
  std::int64_t idle = 0, locked = 0;
  std::size_t queued = 0;
  for (Node id = 1; id < nodes_.slots(); ++id) {
    const Record& n = nodes_[id];
    if (n.end == 0) continue;
    if (n.live) (n.window_locks > 0 ? locked : idle) += n.end - n.begin;
    if (n.window_queued) ++queued;
    ORRERY_CHECK(n.window_queued == (n.live && n.window_locks == 0), "radix cache: idle windows");
    ORRERY_CHECK(!n.window_queued || idle_windows_.count({n.window_used, id}) == 1,
                 "radix cache: a window stands at an old place");
    ORRERY_CHECK(n.window_locks <= n.locks, "radix cache: a window is locked without its node");
  }
  const Windowed& w = windowed_;
  ORRERY_CHECK(w.available >= 0 && w.held >= 0, "radix cache: a count of windowed slots is negative");
  ORRERY_CHECK(idle == w.evictable && locked == w.locked && queued == idle_windows_.size(),
               "radix cache: windows and counts disagree");
  ORRERY_CHECK(w.available + w.evictable + w.locked + w.held == config_.windowed_tokens,
               "radix cache: windowed slots do not add up");
}

}  // namespace orrery
