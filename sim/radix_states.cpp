// The pool of states of a radix cache (facts from mem_cache/unified_cache/components/mamba.py and
// unified_tree_core.py of 0.5.23): which nodes hold the state of their end, which of those are locked, and in
// what order they are given up. A split leaves the state with the lower part.
#include "base/check.h"
#include "sim/radix_cache.h"

namespace orrery {

void RadixCache::requeue_state(Node id) {
  Record& node = nodes_[id];
  const bool idle = node.state && node.state_locks == 0;
  if (idle == node.state_queued) return;
  node.state_queued = idle;
  if (idle)
    idle_states_.insert({node.state_used, id});
  else
    idle_states_.erase({node.state_used, id});
}

// Only the state that is used, not those on the way to it (`refresh_lru`).
void RadixCache::touch_state(Node id) {
  Record& node = nodes_[id];
  if (id == root || !node.state) return;
  if (node.state_queued) idle_states_.erase({node.state_used, id});
  node.state_queued = false;
  node.state_used = now();
  requeue_state(id);
}

void RadixCache::take_states(std::int64_t slots) {
  ORRERY_CHECK(slots <= states_.available, "radix cache: more states taken than are free");
  states_.available -= slots;
  states_.held += slots;
}

void RadixCache::give_back_states(std::int64_t slots) {
  ORRERY_CHECK(slots <= states_.held, "radix cache: more states given back than were taken");
  states_.held -= slots;
  states_.available += slots;
}

// `commit_insert_component_data`: the newest of the order, whether it is new or was there.
bool RadixCache::leave_state(Node id) {
  const bool is_new = !nodes_[id].state;
  if (is_new) {
    ORRERY_CHECK(states_.held > 0, "radix cache: a state that nobody held");
    --states_.held;
    nodes_[id].state = true;
    if (nodes_[id].state_locks > 0) ++states_.locked;
  }
  if (is_new && nodes_[id].host_state) requeue_host_state(id);
  touch_state(id);
  if (tiered()) {
    want_state_backup(id);
    start_backups();
  }
  return is_new;
}

// Of the node alone; one without a state counts its locks too.
void RadixCache::lock_state(Node id) {
  if (id == root || nodes_[id].state_locks++ > 0 || !nodes_[id].state) return;
  ++states_.locked;
  requeue_state(id);
}

void RadixCache::unlock_state(Node id) {
  if (id == root) return;
  ORRERY_CHECK(nodes_[id].state_locks > 0, "radix cache: a state unlocked more often than locked");
  if (--nodes_[id].state_locks > 0 || !nodes_[id].state) return;
  --states_.locked;
  requeue_state(id);
}

void RadixCache::give_up_state(Node id) {
  ORRERY_CHECK(nodes_[id].state_locks == 0, "radix cache: a locked state is not given up");
  nodes_[id].state = false;
  requeue_state(id);
  if (nodes_[id].host_state) requeue_host_state(id);
  ++states_.available;
}

// A leaf goes as a whole, an inner node keeps its tokens (`_evict_device_next_node`), which then serve only
// who computes the state again.
bool RadixCache::make_state_room(std::int64_t slots) {
  while (states_.available < slots && !idle_states_.empty()) {
    const Node id = idle_states_.begin()->second;
    if (nodes_[id].queued) {
      drop_leaf(id);
      continue;
    }
    // write_back: an inner node without a copy is copied first, if there is room (`_evict_device_next_node`).
    const bool writes_back = tiered() && config_.backup_at_hits == 0;
    if (writes_back && !nodes_[id].host && !nodes_[id].host_state) back_up(id);
    give_up_state(id);
  }
  return states_.available >= slots;
}

void RadixCache::check_states() const {
  std::int64_t locked = 0;
  std::size_t idle = 0;
  for (Node id = 1; id < nodes_.slots(); ++id) {
    const Record& n = nodes_[id];
    if (n.end == 0) continue;
    if (n.state && n.state_locks > 0) ++locked;
    if (n.state && n.state_locks == 0) ++idle;
    ORRERY_CHECK(n.state_queued == (n.state && n.state_locks == 0), "radix cache: idle states");
    ORRERY_CHECK(!n.state_queued || idle_states_.count({n.state_used, id}) == 1,
                 "radix cache: a state stands at an old place");
    ORRERY_CHECK(n.state_locks <= n.locks, "radix cache: a state is locked without its node");
  }
  const States& s = states_;
  ORRERY_CHECK(s.available >= 0 && s.held >= 0, "radix cache: a count of states is negative");
  ORRERY_CHECK(locked == s.locked && idle == idle_states_.size(), "radix cache: states and counts disagree");
  ORRERY_CHECK(s.available + s.held + s.locked + idle_states() == config_.state_slots,
               "radix cache: states do not add up");
}

}  // namespace orrery
