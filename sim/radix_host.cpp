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

// From the top, so that no node is copied before its parent; the first without room ends it.
void RadixCache::start_backups() {
  if (wanted_.empty()) return;
  const std::vector<Node> wanted = std::exchange(wanted_, {});
  for (const Node node : wanted) {
    std::vector<Node> path;
    for (Node id = node; id != root && !nodes_[id].host; id = nodes_[id].parent) path.push_back(id);
    for (auto id = path.rbegin(); id != path.rend(); ++id) {
      if (!back_up(*id)) break;
      lock(*id);
      backups_.push_back({.node = *id, .begin = nodes_[*id].begin, .end = nodes_[*id].end});
    }
  }
}

bool RadixCache::back_up(Node id) {
  const std::int64_t size = size_of(id);
  if (nodes_[id].parent != root && !nodes_[nodes_[id].parent].host && config_.backup_at_hits > 0)
    return false;
  if (!make_host_room(size)) return false;
  nodes_[id].host = true;
  host_used_ += size;
  if (config_.backup_at_hits == 0) blocking_tokens_ += size;
  return true;
}

void RadixCache::end_backup(const Backup& backup) { unlock(backup.node); }

// Leaves that are in host memory alone, in the order of the device's policy.
bool RadixCache::make_host_room(std::int64_t tokens) {
  while (config_.host_tokens - host_used_ < tokens && !host_leaves_.empty()) {
    const Node id = std::get<3>(*host_leaves_.begin()), parent = nodes_[id].parent;
    host_leaves_.erase(host_leaves_.begin());
    host_used_ -= size_of(id);
    host_dropped_ += size_of(id);
    forget(id);
    requeue(parent);
  }
  return config_.host_tokens - host_used_ >= tokens;
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
std::int64_t RadixCache::load(Node end, std::int64_t least) {
  std::vector<Node> path;
  std::int64_t tokens = 0;
  for (Node id = end; id != root && !nodes_[id].device; id = nodes_[id].parent) {
    path.push_back(id);
    tokens += size_of(id);
  }
  if (tokens < std::max<std::int64_t>(1, least)) return 0;
  const auto pin = [&](std::int32_t by) {
    for (const Node id : path) {
      nodes_[id].host_pins += by;
      requeue_host(id);
    }
  };
  pin(1);  // room may be made by writing others back
  const bool room = make_room(tokens);
  pin(-1);
  if (!room) return 0;
  available_ -= tokens;
  evictable_ += tokens;
  allocated_ += tokens;
  for (auto id = path.rbegin(); id != path.rend(); ++id) bring_back(*id);
  return tokens;
}

}  // namespace orrery
