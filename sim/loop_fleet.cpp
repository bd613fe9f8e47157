#include "sim/loop_fleet.h"

#include <algorithm>

namespace orrery {

void LoopFleet::make_instances() {
  const std::size_t count = places_.size();
  lives_.assign(count, 0);
  entering_count_.assign(count, 0);
  relayed_.assign(count, 0);
  unnoticed_.assign(count, 0);
  input_free_.assign(count, SimTime(0));
  images_free_ = input_free_;
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
  const Instance::Wiring wiring{
      .id = InstanceId(static_cast<std::uint32_t>(i)),
      .executor = setup_.executor,
      .inbox = setup_.inbox,
      .collector = &collector_,
      .observer = setup_.observer,
      .front_end = places_[i].front_end.get(),
      .client_prepares = places_[i].pool->client_prepares && places_[i].pool->role == PoolRole::mixed,
      .abort_delay = places_[i].pool->abort_delay,
      .stream = places_[i].pool->stream,
      .per_request_itl = setup_.per_request_itl,
      .role = places_[i].pool->role,
      .life = lives_[i],
      .handoffs = apart_ ? &apart_->handoffs() : nullptr,
      .ledger = fleet_ ? &fleet_->ledger() : nullptr,
      .answers = places_[i].group->answers_of(places_[i].in_group),
      .relay = places_[i].pool->role == PoolRole::encoder ? &*relay_ : nullptr};
  if (CacheEvents* const cache = places_[i].group->cache_of(places_[i].in_group))
    ORRERY_CHECK(scheduler->watch_cache(cache), "the engine's cache reports events");
  instances_[i] = std::make_unique<Instance>(std::move(scheduler), wiring);
}

std::vector<LostRequest> LoopFleet::take_down(InstanceId id, SimTime now) {
  const std::size_t i = id.value();
  unnoticed_[i] = outstanding(id);
  const std::vector<Instance::Live> here = instances_[i]->live();
  std::vector<LostRequest> lost = instances_[i]->lose_all(now);
  tally_->add(i, *instances_[i], false);
  setup_.executor->reset(id, now);
  ++lives_[i];
  if (apart_) {
    apart_->lose_instance(id, places_[i].pool->role, here, now, lost);
    setup_.transport->begin_anew(id);
  }
  if (relay_) lose_fetching(id, now, lost);
  entering_count_[i] = relayed_[i] = 0;
  input_free_[i] = images_free_[i] = awake_[i] = now;
  if (places_[i].front_end) places_[i].front_end = std::make_unique<FrontEnd>(*places_[i].pool->front_end);
  make_instance(i, setup_.make_scheduler(id));
  return lost;
}

void LoopFleet::forsake_all(RequestId request, SimTime now) {
  if (apart_) apart_->abandon(request, now);
  if (relay_) relay_->drop(request);
}

// The embeddings that an encoder instance had are gone with it, those under way as well.
void LoopFleet::lose_fetching(InstanceId id, SimTime now, std::vector<LostRequest>& lost) {
  if (places_[id.value()].pool->role == PoolRole::encoder)
    for (const LostRequest& l : lost) relay_->drop(l.request);
  for (const Entrance& e : relay_->take_fetching(id)) {
    setup_.transport->forget(e.request.id, now);
    over_at(e.instance, e.request.id);
    if (e.instance == id) drop({e.from, e.from_life});
    --relayed_[e.instance.value()];
    update_view(e.instance);
    lost.emplace_back().request = e.request.id;
  }
  const auto by_request = [](const LostRequest& a, const LostRequest& b) { return a.request < b.request; };
  std::sort(lost.begin(), lost.end(), by_request);
  relay_->begin_anew(id, now);
  setup_.transport->begin_anew(id);
}

void LoopFleet::lose_embeddings(const Entrance& e, SimTime now) {
  over_at(e.instance, e.request.id);
  update_view(e.instance);
  fleet_->lose_unnoticed(e.request.id, e.from, now);
}

bool LoopFleet::found_gone(const EncoderRelay::Sent& sent, SimTime now) {
  if (lives_[sent.from.value()] == sent.from_life) return false;
  fleet_->lose_unnoticed(sent.request.id, sent.from, now);
  return true;
}

InstanceId LoopFleet::choose(const Request& request, PoolRole role, const Embeddings& brought, SimTime now) {
  if (!fleet_) return group(role).choose(request);
  const bool any = group(role).any_open();
  const InstanceId chosen = any ? group(role).choose(request) : InstanceId::none();
  if (any && fleet_->runs(chosen)) return chosen;
  drop(brought);
  any ? lose_unnoticed(request, chosen, now) : park(request, role, now);
  return InstanceId::none();
}

bool LoopFleet::went(InstanceId to, std::uint32_t life, const Request& request, const Embeddings& brought,
                     SimTime now) {
  if (life == lives_[to.value()]) return false;
  drop(brought);
  if (!stale(request)) lose_unnoticed(request, to, now);
  return true;
}

bool LoopFleet::lost_its_holder(const Request& leg, SimTime now) {
  const InstanceId from = apart_ ? apart_->lost_holder(leg) : InstanceId::none();
  if (from.is_none()) return false;
  fleet_->lose_unnoticed(leg.id, from, now);
  return true;
}

// One of two legs that were sent at once finds no instance: the request waits as a whole.
void LoopFleet::park(const Request& request, PoolRole role, SimTime now) {
  Request waits = request;
  if (sent_at_once(request)) {
    if (!apart_->abandon(request.id, now)) return;
    waits.leg = RequestLeg::whole;
  }
  fleet_->park(waits, role, now);
}

// Routers see it there until they learn that the instance is gone.
void LoopFleet::lose_unnoticed(const Request& request, InstanceId chosen, SimTime now) {
  const Place& place = places_[chosen.value()];
  if (!fleet_->runs(chosen)) place.group->set_outstanding(place.in_group, ++unnoticed_[chosen.value()]);
  over_at(chosen, request.id);
  bind(request, InstanceId::none());
  if (apart_ && !apart_->abandon(request.id, now)) return;
  fleet_->lose_unnoticed(request.id, chosen, now);
}

void LoopFleet::over_at(InstanceId chosen, RequestId request) {
  const Place& place = places_[chosen.value()];
  if (AnswerEvents* const answers = place.group->answers_of(place.in_group)) answers->over(request, 0);
}

// ----------------------------------------------------------------------------------------------- FleetHost

void LoopFleet::open_to_router(InstanceId id, bool open) {
  const Place& place = places_[id.value()];
  if (open) place.group->cache_lost(place.in_group);
  place.group->set_open(place.in_group, open);
  update_view(id);
}

void LoopFleet::end(const RequestRecord& record, SimTime at) {
  collector_.finished(record, at);
  setup_.inbox->on_finished(RequestId(record.request), at);
}

bool LoopFleet::at_rest(InstanceId id) const {
  const Instance& instance = *instances_[id.value()];
  const bool wanted = relay_ && relay_->held(id) > 0;
  return outstanding(id) == 0 && instance.idle() && !instance.scheduler().has_work() && !wanted;
}

}  // namespace orrery
