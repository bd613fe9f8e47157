// States of a radix cache in host memory (SGLang's HiCache beside layers that keep a state:
// mem_cache/unified_cache/components/mamba.py of 0.5.23): a node's copy goes with its tokens', stays when the
// device gives the state up, and comes back with the prefix that ends there, for the node and for who asked.
#include "base/check.h"
#include "sim/radix_cache.h"

namespace orrery {

// `needs_incremental_backup`: an insertion left a state at a node that was copied before it had one.
void RadixCache::want_state_backup(Node id) {
  if (config_.backup_at_hits == 0 || id == root) return;
  const Record& node = nodes_[id];
  if (node.host && !node.copying && node.state && !node.host_state) wanted_states_.push_back(id);
}

bool RadixCache::back_up_state(Node id) {
  if (!make_host_state_room(1)) return false;
  nodes_[id].host_state = true;
  ++host_states_used_;
  return true;
}

// `drive_host_eviction`: in the order in which the device gave them up; a leaf in host memory goes whole.
bool RadixCache::make_host_state_room(std::int64_t slots) {
  while (config_.host_states - host_states_used_ < slots && !host_states_.empty()) {
    const Node id = host_states_.begin()->second;
    if (nodes_[id].host_queued)
      drop_host_leaf(id);
    else
      drop_host_state(id);
  }
  return config_.host_states - host_states_used_ >= slots;
}

void RadixCache::drop_host_state(Node id) {
  nodes_[id].host_state = false;
  requeue_host_state(id);
  --host_states_used_;
  ++host_states_dropped_;
}

void RadixCache::requeue_host_state(Node id) {
  Record& node = nodes_[id];
  const bool idle = node.host_state && !node.state && node.host_pins == 0;
  if (idle == node.host_state_queued) return;
  node.host_state_queued = idle;
  if (idle) {
    node.host_state_used = now();
    host_states_.insert({node.host_state_used, id});
  } else {
    host_states_.erase({node.host_state_used, id});
  }
}

void RadixCache::bring_back_state(Node id) {
  Record& node = nodes_[id];
  --states_.available;
  node.state = true;
  if (node.state_locks > 0) ++states_.locked;
  requeue_host_state(id);
  touch_state(id);
}

void RadixCache::check_host_states() const {
  std::int64_t used = 0;
  std::size_t queued = 0;
  for (Node id = 1; id < nodes_.slots(); ++id) {
    const Record& n = nodes_[id];
    if (n.end == 0) continue;
    used += n.host_state ? 1 : 0;
    queued += n.host_state_queued ? 1 : 0;
    ORRERY_CHECK(!n.state || n.device, "radix cache: a state of a node that left the device");
    ORRERY_CHECK(!n.host_state || n.host, "radix cache: a state was copied without its node");
    ORRERY_CHECK(n.host_state_queued == (n.host_state && !n.state && n.host_pins == 0),
                 "radix cache: idle states in host memory");
    ORRERY_CHECK(!n.host_state_queued || host_states_.count({n.host_state_used, id}) == 1,
                 "radix cache: a state in host memory stands at an old place");
  }
  ORRERY_CHECK(used == host_states_used_ && used <= config_.host_states && queued == host_states_.size(),
               "radix cache: states in host memory do not add up");
}

}  // namespace orrery
