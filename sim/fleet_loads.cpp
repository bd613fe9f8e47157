// Weights of instances that start, where they come over the links that everybody shares (docs/faults.md).
#include "sim/fleet.h"

namespace orrery {

void Fleet::ready_in(std::size_t i, SimDuration wait, SimTime now) {
  push({.at = now + wait,
        .kind = Kind::ready,
        .index = static_cast<std::uint32_t>(i),
        .life = members_[i].life});
}

void Fleet::begin_load(std::size_t i, SimTime now) {
  Member& m = members_[i];
  const PoolPlan& plan = pools_[m.pool].plan;
  m.loads_from = plan.from_peer ? peer_of(i) : InstanceId::none();
  if (plan.from_peer && m.loads_from.is_none()) return ready_in(i, plan.load_alone + plan.start, now);
  m.loading = true;
  host_.load_weights(id(i), m.loads_from, now);
}

// Of the pool's instances that have their weights the one that the fewest load from, the first of those.
InstanceId Fleet::peer_of(std::size_t i) const {
  const FleetPool& pool = pools_[members_[i].pool].at;
  std::size_t best = no_member, fewest = 0;
  for (std::size_t p = pool.first; p < pool.first + pool.instances; ++p) {
    if (p == i || !runs(id(p))) continue;
    std::size_t served = 0;
    for (const Member& m : members_) served += m.loading && m.loads_from == id(p) ? 1 : 0;
    if (best == no_member || served < fewest) {
      best = p;
      fewest = served;
    }
  }
  return best == no_member ? InstanceId::none() : id(best);
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
