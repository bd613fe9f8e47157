// Weights of instances that start, where they come over the links that everybody shares (docs/faults.md).
#include "sim/fleet.h"

#include <algorithm>
#include <utility>

namespace orrery {

void Fleet::ready_in(std::size_t i, SimDuration wait, SimTime now) {
  push({.at = now + wait,
        .kind = Kind::ready,
        .index = static_cast<std::uint32_t>(i),
        .life = members_[i].life});
}

// From the first of its peers that there is a way from; where there is none it waits for that of the first.
void Fleet::begin_load(std::size_t i, SimTime now) {
  Member& m = members_[i];
  const PoolPlan& plan = pools_[m.pool].plan;
  m.loads_from = InstanceId::none();
  if (plan.from_peer) {
    const std::vector<InstanceId> peers = peers_of(i);
    if (peers.empty()) return ready_in(i, plan.load_alone + plan.start, now);
    const auto reached = [&](InstanceId peer) { return host_.load_way(id(i), peer); };
    const auto best = std::find_if(peers.begin(), peers.end(), reached);
    m.loads_from = best == peers.end() ? peers.front() : *best;
  }
  m.loading = true;
  host_.load_weights(id(i), m.loads_from, now);
}

// Of the pool's instances that have their weights those first that the fewest load from.
std::vector<InstanceId> Fleet::peers_of(std::size_t i) const {
  const FleetPool& pool = pools_[members_[i].pool].at;
  std::vector<std::pair<std::size_t, InstanceId>> peers;
  for (std::size_t p = pool.first; p < pool.first + pool.instances; ++p) {
    if (p == i || !runs(id(p))) continue;
    std::size_t served = 0;
    for (const Member& m : members_) served += m.loading && m.loads_from == id(p) ? 1 : 0;
    peers.emplace_back(served, id(p));
  }
  std::stable_sort(peers.begin(), peers.end(), [](auto& a, auto& b) { return a.first < b.first; });
  std::vector<InstanceId> order;
  for (const auto& peer : peers) order.push_back(peer.second);
  return order;
}

// Links have changed, or an instance is up: whose way from its peer is cut begins again with one that there
// is a way from.
void Fleet::seek_peers(SimTime now) {
  for (std::size_t i = 0; i < members_.size(); ++i) {
    if (!members_[i].loading || members_[i].loads_from.is_none() || !host_.load_stuck(id(i))) continue;
    const std::vector<InstanceId> peers = peers_of(i);
    if (std::none_of(peers.begin(), peers.end(), [&](InstanceId p) { return host_.load_way(id(i), p); }))
      continue;
    host_.drop_load(id(i), now);
    members_[i].loading = false;
    begin_load(i, now);
  }
}

void Fleet::loaded(InstanceId instance, SimTime now) {
  const std::size_t i = instance.value();
  members_[i].loading = false;
  digest_.add((std::uint64_t{i} << 8) + 192);
  digest_.add(now.ns());
  ready_in(i, pools_[members_[i].pool].plan.start, now);
}

// No link that is cut will be mended, and its weights come over none that is left.
bool Fleet::stuck_for_good(std::size_t i) const {
  if (!members_[i].loading || !host_.load_stuck(id(i))) return false;
  for (std::size_t f = 0; f < faults_.size(); ++f) {
    const FaultPlan& plan = plan_.faults[f];
    if (faults_[f].active && plan.failure() && !plan.links.empty() && !plan.for_good()) return false;
  }
  return true;
}

// It has entered another state: its own load is over, and who loads from it, when it is gone, begins again
// elsewhere.
void Fleet::end_loads(std::size_t i, SimTime now) {
  if (members_[i].loading) host_.drop_load(id(i), now);
  members_[i].loading = false;
  if (runs(id(i))) return;
  for (std::size_t j = 0; j < members_.size(); ++j) {
    if (!members_[j].loading || members_[j].loads_from != id(i)) continue;
    host_.drop_load(id(j), now);
    members_[j].loading = false;
    begin_load(j, now);
  }
}

}  // namespace orrery
