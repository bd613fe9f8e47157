// Windowed slots of a radix cache in host memory (SGLang's HiCache beside layers with a sliding window:
// mem_cache/unified_cache/components/swa.py of 0.5.23): a pool of their own there, in which a node's slots
// stay when the device's have been given up, and from which a window comes back before it is used.
#include <algorithm>

#include "base/check.h"
#include "sim/radix_cache.h"

namespace orrery {

std::int64_t RadixCache::sizes_of(const std::vector<Node>& nodes) const {
  std::int64_t tokens = 0;
  for (const Node id : nodes) tokens += size_of(id);
  return tokens;
}

// `_collect_unbacked_swa_nodes_in_window`: from the node up, a window far, what is on the device and has no
// copy; up to a gap, or a node whose copy is under way.
std::vector<RadixCache::Node> RadixCache::unbacked_windows(Node id) const {
  std::vector<Node> nodes;
  std::int64_t covered = 0;
  for (; windowed() && id != root && covered < config_.window; id = nodes_[id].parent) {
    const Record& node = nodes_[id];
    if (node.copying || !(node.live || node.host_live)) break;
    covered += node.end - node.begin;
    if (node.live && !node.host_live) nodes.push_back(id);
  }
  return nodes;
}

// `_should_backup_after_insert`: an insertion ended with a node that was copied before.
void RadixCache::want_window_backup(Node id) {
  if (!tiered() || config_.backup_at_hits == 0 || id == root) return;
  if (nodes_[id].host && !nodes_[id].copying) wanted_windows_.push_back(id);
}

bool RadixCache::back_up_windows(const std::vector<Node>& nodes) {
  const std::int64_t slots = sizes_of(nodes);
  if (!make_host_window_room(slots)) return false;
  for (const Node id : nodes) nodes_[id].host_live = true;
  host_windowed_used_ += slots;
  return true;
}

// `drive_host_eviction`: in the order in which the device gave them up; a leaf in host memory goes whole.
bool RadixCache::make_host_window_room(std::int64_t tokens) {
  while (config_.host_windowed_tokens - host_windowed_used_ < tokens && !host_windows_.empty()) {
    const Node id = host_windows_.begin()->second;
    if (nodes_[id].host_queued)
      drop_host_leaf(id);
    else
      drop_host_window(id);
  }
  return config_.host_windowed_tokens - host_windowed_used_ >= tokens;
}

void RadixCache::drop_host_window(Node id) {
  nodes_[id].host_live = false;
  requeue_host_window(id);
  host_windowed_used_ -= size_of(id);
  host_windowed_dropped_ += size_of(id);
}

void RadixCache::requeue_host_window(Node id) {
  Record& node = nodes_[id];
  const bool idle = node.host_live && !node.live && node.host_pins == 0;
  if (idle == node.host_window_queued) return;
  node.host_window_queued = idle;
  if (idle) {
    node.host_window_used = now();
    host_windows_.insert({node.host_window_used, id});
  } else {
    host_windows_.erase({node.host_window_used, id});
  }
}

// The window before the end is somewhere, or the end would not have been found.
std::vector<RadixCache::Node> RadixCache::windows_to_load(Node end) const {
  std::vector<Node> nodes;
  std::int64_t covered = 0;
  for (Node id = end; id != root && covered < config_.window; id = nodes_[id].parent) {
    const Record& node = nodes_[id];
    ORRERY_CHECK(node.live || node.host_live, "radix cache: a window to load has a gap");
    covered += node.end - node.begin;
    if (!node.live) nodes.push_back(id);
  }
  return nodes;
}

void RadixCache::bring_back_window(Node id) {
  Record& node = nodes_[id];
  const std::int64_t size = node.end - node.begin;
  node.live = true;
  requeue_host_window(id);
  windowed_.available -= size;
  (node.window_locks > 0 ? windowed_.locked : windowed_.evictable) += size;
  node.window_used = now();
  requeue_window(id);
}

void RadixCache::count_on_host(Match& found) const {
  for (Node id = found.best_node; id != root && !nodes_[id].device; id = nodes_[id].parent)
    found.on_host += size_of(id);
  if (stateful() && found.best_node != root) found.state_on_host = !nodes_[found.best_node].state;
  if (!windowed()) return;
  std::int64_t covered = 0;
  for (Node id = found.best_node; id != root && covered < config_.window; id = nodes_[id].parent) {
    covered += size_of(id);
    if (!nodes_[id].live) found.windowed_on_host += size_of(id);
  }
}

std::int64_t RadixCache::idle_window(Node end) const {
  std::int64_t idle = 0, covered = 0;
  for (Node id = end; id != root && covered < config_.window; id = nodes_[id].parent) {
    covered += size_of(id);
    if (nodes_[id].live && nodes_[id].window_locks == 0) idle += size_of(id);
  }
  return idle;
}

void RadixCache::check_host_windows() const {
  std::int64_t used = 0;
  std::size_t queued = 0;
  for (Node id = 1; id < nodes_.slots(); ++id) {
    const Record& n = nodes_[id];
    if (n.end == 0) continue;
    if (n.host_live) used += n.end - n.begin;
    queued += n.host_window_queued ? 1 : 0;
    ORRERY_CHECK(!n.live || n.device, "radix cache: windowed slots of a node that left the device");
    // write_back copies the window before a node, whose other nodes may have no copy (swa.py, BACKUP_HOST).
    ORRERY_CHECK(!n.host_live || n.host || config_.backup_at_hits == 0,
                 "radix cache: a window was copied without its node");
    ORRERY_CHECK(n.host_window_queued == (n.host_live && !n.live && n.host_pins == 0),
                 "radix cache: idle windows in host memory");
    ORRERY_CHECK(!n.host_window_queued || host_windows_.count({n.host_window_used, id}) == 1,
                 "radix cache: a window in host memory stands at an old place");
  }
  ORRERY_CHECK(
      used == host_windowed_used_ && used <= config_.host_windowed_tokens && queued == host_windows_.size(),
      "radix cache: windows in host memory do not add up");
}

}  // namespace orrery
