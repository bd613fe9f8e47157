#include "sim/loop_fleet.h"

#include <algorithm>

namespace orrery {

void LoopFleet::make_instances() {
  const std::size_t count = places_.size();
  lives_.assign(count, 0);
  entering_count_.assign(count, 0);
  input_free_.assign(count, SimTime(0));
  awake_.assign(count, SimTime(0));
  marked_.assign(count, false);
  tally_.emplace(setup_.pools);
  if (setup_.fleet != nullptr) make_fleet();
  instances_.resize(count);
  for (std::size_t i = 0; i < count; ++i) make_instance(i, std::move(setup_.schedulers[i]));
  if (fleet_) fleet_->start();
}

void LoopFleet::make_fleet() {
  ORRERY_CHECK(setup_.make_scheduler != nullptr, "instances that start again need fresh schedulers");
  std::vector<FleetPool> pools;
  std::size_t first = 0;
  for (const PoolSetup& pool : setup_.pools) {
    pools.push_back({.name = pool.name, .role = pool.role, .first = first, .instances = pool.instances});
    first += pool.instances;
  }
  fleet_.emplace(*setup_.fleet, std::move(pools), static_cast<FleetHost&>(*this), setup_.seed);
}

void LoopFleet::make_instance(std::size_t i, std::unique_ptr<Scheduler> scheduler) {
  const Instance::Wiring wiring{.id = InstanceId(static_cast<std::uint32_t>(i)),
                                .executor = setup_.executor,
                                .inbox = setup_.inbox,
                                .collector = &collector_,
                                .observer = setup_.observer,
                                .front_end = places_[i].front_end.get(),
                                .abort_delay = places_[i].pool->abort_delay,
                                .stream = places_[i].pool->stream,
                                .per_request_itl = setup_.per_request_itl,
                                .role = places_[i].pool->role,
                                .life = lives_[i],
                                .handoffs = apart_ ? &handoffs_ : nullptr,
                                .ledger = fleet_ ? &fleet_->ledger() : nullptr};
  instances_[i] = std::make_unique<Instance>(std::move(scheduler), wiring);
}

std::vector<LostRequest> LoopFleet::take_down(InstanceId id, SimTime now) {
  const std::size_t i = id.value();
  const std::vector<Instance::Live> here = instances_[i]->live();
  std::vector<LostRequest> lost = instances_[i]->lose_all(now);
  tally_->add(i, *instances_[i], false);
  setup_.executor->reset(id, now);
  ++lives_[i];
  for (const Instance::Live& live : here) release(live.request, now);
  for (const LostRequest& l : lost) handoffs_.drop(l.request);
  if (apart_ && places_[i].pool->role == PoolRole::prefill) lose_held_by(id, now, lost);
  entering_count_[i] = 0;
  input_free_[i] = awake_[i] = now;
  if (places_[i].front_end) places_[i].front_end = std::make_unique<FrontEnd>(*places_[i].pool->front_end);
  make_instance(i, setup_.make_scheduler(id));
  return lost;
}

// ------------------------------------------------------------------------------------- prefill and decode

void LoopFleet::give_back(const Handoff& h, RequestId request, SimTime now) {
  if (h.life == lives_[h.from.value()] && instances_[h.from.value()]->on_remote_end(h.held, request, now))
    mark(h.from);
  handoffs_.given_back(request);
}

// Nothing that the request holds at a prefill instance is needed any more.
void LoopFleet::release(RequestId request, SimTime now) {
  const Handoff* h = apart_ ? handoffs_.find(request) : nullptr;
  if (h == nullptr || h->given_back || h->from.is_none()) return;
  setup_.transport->cancel(request, now);
  give_back(*h, request, now);
}

void LoopFleet::forsake_all(RequestId request, SimTime now) {
  release(request, now);
  handoffs_.drop(request);
}

// Decode legs that have not got all blocks yet from a prefill instance that is gone.
void LoopFleet::lose_held_by(InstanceId holder, SimTime now, std::vector<LostRequest>& lost) {
  for (std::size_t k = 0; k < instances_.size(); ++k) {
    if (places_[k].pool->role != PoolRole::decode) continue;
    for (const Instance::Live& live : instances_[k]->live()) {
      const Handoff* h = handoffs_.find(live.request);
      if (h == nullptr || h->given_back || h->from != holder) continue;
      setup_.transport->cancel(live.request, now);
      if (!h->pull_begin.is_never()) instances_[k]->on_remote_end(live.sequence, live.request, now);
      drop_decode_leg(InstanceId(static_cast<std::uint32_t>(k)), live, now, lost);
    }
  }
  const auto by_request = [](const LostRequest& a, const LostRequest& b) { return a.request < b.request; };
  std::sort(lost.begin(), lost.end(), by_request);
}

void LoopFleet::drop_decode_leg(InstanceId at, const Instance::Live& live, SimTime now,
                                std::vector<LostRequest>& lost) {
  const auto l = instances_[at.value()]->withdraw(live.sequence, now);
  if (instances_[at.value()]->idle()) mark(at);
  handoffs_.given_back(live.request);
  if (!l) return;
  lost.push_back(*l);
  handoffs_.drop(live.request);
}

void LoopFleet::lose_transfer(Handoff& h, RequestId request, SimTime now) {
  ORRERY_CHECK(fleet_.has_value(), "without faults every transfer arrives");
  const Instance::Live live{h.sequence, request};
  const InstanceId to = h.to;
  fleet_->transfer_lost();
  if (h.life == lives_[h.from.value()] && instances_[h.from.value()]->on_remote_end(h.held, request, now))
    mark(h.from);
  if (!instances_[to.value()]->holds(live.sequence, request)) return handoffs_.given_back(request);
  instances_[to.value()]->on_remote_end(live.sequence, request, now);
  std::vector<LostRequest> lost;
  drop_decode_leg(to, live, now, lost);
  for (const LostRequest& l : lost) fleet_->lose(l, to, now, now);
}

bool LoopFleet::lost_its_holder(const Request& leg, SimTime now) {
  if (leg.leg != RequestLeg::decode) return false;
  const Handoff& h = handoffs_.at(leg.id);
  if (h.life == lives_[h.from.value()]) return false;
  const InstanceId from = h.from;
  handoffs_.drop(leg.id);
  fleet_->lose_unnoticed(leg.id, from, now);
  return true;
}

void LoopFleet::lose_unnoticed(const Request& request, InstanceId chosen, SimTime now) {
  ++places_[chosen.value()].group->view(places_[chosen.value()].in_group).outstanding;
  forsake_all(request.id, now);
  fleet_->lose_unnoticed(request.id, chosen, now);
}

// ----------------------------------------------------------------------------------------------- FleetHost

void LoopFleet::open_to_router(InstanceId id, bool open) {
  places_[id.value()].group->view(places_[id.value()].in_group).open = open;
  update_view(id);
}

void LoopFleet::end(const RequestRecord& record, SimTime at) {
  collector_.finished(record, at);
  setup_.inbox->on_finished(RequestId(record.request), at);
}

bool LoopFleet::at_rest(InstanceId id) const {
  const Instance& instance = *instances_[id.value()];
  return outstanding(id) == 0 && instance.idle() && !instance.scheduler().has_work();
}

}  // namespace orrery
