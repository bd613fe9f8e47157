// The tier of a radix cache in host memory (SGLang's HiCache without storage behind it;
// ../shared/reference/sglang_0_5.md §4, facts from mem_cache/unified_radix_cache.py and
// unified_cache/unified_tree_core.py of 0.5.23). When a copy has crossed the link is the scheduler's
// business.
#include <algorithm>

#include "base/check.h"
#include "sim/radix_cache.h"

namespace orrery {

// write_through: at the first insertion, write_through_selective: at the second; write_back: never here.
void RadixCache::want_backup(Node id) {
  if (!tiered() || config_.backup_at_hits == 0) return;
  if (!nodes_[id].host && nodes_[id].hits >= config_.backup_at_hits) wanted_.push_back(id);
}

// From the top, so that no node is copied before its parent; the first without room ends it. Then the windows
// of nodes that were copied before.
void RadixCache::start_backups() {
  if (wanted_.empty() && wanted_windows_.empty() && wanted_states_.empty()) return;
  const std::vector<Node> wanted = std::exchange(wanted_, {}), windows = std::exchange(wanted_windows_, {}),
                          states = std::exchange(wanted_states_, {});
  for (const Node node : wanted) {
    std::vector<Node> path;
    for (Node id = node; id != root && !nodes_[id].host; id = nodes_[id].parent) path.push_back(id);
    for (auto id = path.rbegin(); id != path.rend(); ++id) {
      const std::vector<Node> slots = unbacked_windows(*id);
      if (!back_up(*id)) break;
      begin_backup(*id, size_of(*id), sizes_of(slots), nodes_[*id].state ? 1 : 0);
    }
  }
  for (const Node node : windows) {
    const std::vector<Node> slots = unbacked_windows(node);
    if (!slots.empty() && back_up_windows(slots)) begin_backup(node, 0, sizes_of(slots), 0);
  }
  for (const Node node : states) {
    if (!nodes_[node].host_state && back_up_state(node)) begin_backup(node, 0, 0, 1);
  }
}

void RadixCache::begin_backup(Node id, std::int64_t full, std::int64_t windowed_slots, std::int64_t states) {
  lock(id);
  if (stateful()) lock_state(id);
  const std::int64_t window_lock = windowed() ? lock_window(id) : 0;
  nodes_[id].copying = true;
  backups_.push_back({.node = id,
                      .begin = nodes_[id].begin,
                      .end = nodes_[id].end,
                      .full = full,
                      .windowed = windowed_slots,
                      .states = states,
                      .window_lock = window_lock});
}

// All of a node or nothing: its slots, and what its window holds that has no copy.
bool RadixCache::back_up(Node id) {
  const std::int64_t size = size_of(id);
  const std::vector<Node> windows = unbacked_windows(id);
  if (nodes_[id].parent != root && !nodes_[nodes_[id].parent].host && config_.backup_at_hits > 0)
    return false;
  if (!make_host_room(size) || !back_up_windows(windows)) return false;
  const bool state = nodes_[id].state && !nodes_[id].host_state;
  if (state && !back_up_state(id)) return false;
  nodes_[id].host = true;
  host_used_ += size;
  if (config_.backup_at_hits > 0) return true;
  blocking_tokens_ += size;
  blocking_windowed_ += sizes_of(windows);
  blocking_states_ += state ? 1 : 0;
  return true;
}

void RadixCache::end_backup(const Backup& backup) {
  for (Node id = backup.node; id != root && nodes_[id].begin >= backup.begin; id = nodes_[id].parent)
    nodes_[id].copying = false;
  if (windowed()) unlock_window(backup.node, backup.window_lock);
  if (stateful()) unlock_state(backup.node);
  unlock(backup.node);
}

// Leaves that are in host memory alone, in the order of the device's policy.
bool RadixCache::make_host_room(std::int64_t tokens) {
  while (config_.host_tokens - host_used_ < tokens && !host_leaves_.empty())
    drop_host_leaf(std::get<3>(*host_leaves_.begin()));
  return config_.host_tokens - host_used_ >= tokens;
}

void RadixCache::drop_host_leaf(Node id) {
  const Node parent = nodes_[id].parent;
  host_leaves_.erase(nodes_[id].place);
  host_used_ -= size_of(id);
  host_dropped_ += size_of(id);
  forget(id);
  requeue(parent);
}

// What hangs below a node that goes without a copy goes too (`drop_subtree_no_host`).
void RadixCache::drop_host_below(Node id) {
  const auto below = [&](Node node) {
    while (node != root && node != id) node = nodes_[node].parent;
    return node == id;
  };
  while (nodes_[id].children > 0) {
    const auto leaf = std::find_if(host_leaves_.begin(), host_leaves_.end(),
                                   [&](const EvictionKey& place) { return below(std::get<3>(place)); });
    ORRERY_CHECK(leaf != host_leaves_.end(), "radix cache: a node goes before its children");
    drop_host_leaf(std::get<3>(*leaf));
  }
}

void RadixCache::requeue_host(Node id) {
  Record& node = nodes_[id];
  const bool leaf = !node.device && node.children == 0 && node.host_pins == 0;
  if (node.host_queued) host_leaves_.erase(node.place);
  node.host_queued = leaf;
  if (!leaf) return;
  node.place = key_of(id);
  host_leaves_.insert(node.place);
}

// It has slots on the device again.
void RadixCache::bring_back(Node id) {
  Record& node = nodes_[id];
  if (node.host_queued) host_leaves_.erase(node.place);
  node.host_queued = false;
  node.device = true;
  ++nodes_[node.parent].device_children;
  requeue(node.parent);
  requeue(id);
}

// `load_back`: all of them or none.
RadixCache::Loaded RadixCache::load(Node end, std::int64_t least) {
  std::vector<Node> path;
  std::int64_t tokens = 0;
  Node base = end;
  for (; base != root && !nodes_[base].device; base = nodes_[base].parent) {
    path.push_back(base);
    tokens += size_of(base);
  }
  const std::vector<Node> windows = windowed() ? windows_to_load(end) : std::vector<Node>();
  const std::int64_t slots = sizes_of(windows);
  const bool state = stateful() && end != root && !nodes_[end].state;
  const std::int64_t states = state && nodes_[end].host_state ? 1 : 0;
  if (tokens < std::max<std::int64_t>(1, least) && slots == 0 && states == 0) return {};
  const auto pin = [&](const std::vector<Node>& nodes, std::int32_t by) {
    for (const Node id : nodes) {
      nodes_[id].host_pins += by;
      requeue_host(id);
      if (windowed()) requeue_host_window(id);
      if (stateful()) requeue_host_state(id);
    }
  };
  const std::vector<Node> with_state = states > 0 ? std::vector<Node>{end} : std::vector<Node>();

  // Room may be made by writing others back. What is found on the device stays.
  pin(path, 1);
  pin(windows, 1);
  pin(with_state, 1);
  const bool holds = windowed() || stateful();
  if (holds) lock(base);
  const std::int64_t window_lock = windowed() ? lock_window(end) : 0;
  bool room = true;
  if (windowed()) {
    while (available_ < tokens && !leaves_.empty()) evict_first();
    while (windowed_.available < slots && evict_first_window()) {}
    room = available_ >= tokens && windowed_.available >= slots;
  } else {
    room = make_room(tokens) && (states == 0 || make_state_room(states)) && available_ >= tokens;
  }
  pin(with_state, -1);
  pin(windows, -1);
  pin(path, -1);
  if (room) {
    available_ -= tokens;
    evictable_ += tokens;
    allocated_ += tokens;
    for (auto id = path.rbegin(); id != path.rend(); ++id) bring_back(*id);
    for (auto id = windows.rbegin(); id != windows.rend(); ++id) bring_back_window(*id);
    if (states > 0) bring_back_state(end);
  }
  if (windowed()) unlock_window(end, window_lock);
  if (holds) unlock(base);
  return room ? Loaded{tokens, slots, states} : Loaded{};
}

}  // namespace orrery
