#include "sim/simulation.h"

#include <algorithm>
#include <array>

#include "base/mutation.h"
#include "sim/departures.h"
#include "sim/loop_fleet.h"

namespace orrery {

namespace {

class Loop final : LoopFleet {
 public:
  explicit Loop(SimulationSetup setup) : LoopFleet(std::move(setup)) {
    if (setup_.pools.empty()) {
      setup_.pools.push_back({.instances = setup_.schedulers.size(),
                              .router = setup_.router,
                              .front_end = setup_.front_end,
                              .input_delay = {},
                              .input_per_request = setup_.input_per_request,
                              .core_wake = setup_.core_wake,
                              .abort_delay = setup_.abort_delay,
                              .stream = setup_.stream});
    }
    places_.reserve(setup_.schedulers.size());
    for (const PoolSetup& pool : setup_.pools) {
      RouterGroup& group = groups_[static_cast<std::size_t>(pool.role)];
      if (!group.has_router()) group.set_router(pool.router);
      for (std::size_t i = 0; i < pool.instances; ++i) {
        places_.push_back({.pool = &pool, .group = &group, .in_group = group.next_place()});
        group.add(InstanceId(static_cast<std::uint32_t>(places_.size() - 1)));
        if (pool.front_end) places_.back().front_end = std::make_unique<FrontEnd>(*pool.front_end);
      }
    }
    ORRERY_CHECK(places_.size() == setup_.schedulers.size(), "pools hold all instances");
    apart_ = !group(PoolRole::prefill).empty();
    ORRERY_CHECK(!apart_ || setup_.transport != nullptr, "prefill and decode pools need a transport");
    make_instances();
  }

  Result<RunResult> run() {
    check_context() = {.sim_time_ns = 0, .seed = setup_.seed, .digest = 0};
    if (!may_go_on()) return interrupted(SimTime(0));  // of many short runs none gets to the next question
    for (;;) {
      drop_stale_departures();
      SimTime due = earlier(earlier(setup_.executor->next_event(), setup_.inbox->next()),
                            earlier(entering_.next(), departures_.next()));
      if (apart_) due = earlier(due, earlier(handoffs_.next_answer(), setup_.transport->next_event()));
      if (fleet_ && (!due.is_never() || fleet_->holds_requests())) due = earlier(due, fleet_->next());
      if (due.is_never()) break;
      const SimTime now = setup_.clock->wait_until(due);
      ++events_;
      check_context().sim_time_ns = now.ns();
      collector_.advance(now);
      take_outcomes(now);
      if (apart_) take_pulled(now);
      if (fleet_) fleet_->change(now);
      if (setup_.inbox->next() <= now) take_arrivals(now);
      if (apart_) take_answers(now);
      if (entering_.next() <= now) take_entrances(now);
      if (!schedule_marked(now)) return exhausted(now);
      if (departures_.next() <= now) take_departures(now);
      if (fleet_) fleet_->settle(now);
      if ((events_ & 0xFFFF) == 0 && !may_go_on()) return interrupted(now);
    }
    if (setup_.inbox->error() != nullptr) return *setup_.inbox->error();
    return result();
  }

 private:
  bool may_go_on() const { return !setup_.keep_going || setup_.keep_going(collector_.ended()); }
  static Error interrupted(SimTime now) {
    return make_error(ErrorKind::interrupted,
                      "interrupted at simulated time " + std::to_string(now.seconds()) + " s");
  }

  void take_outcomes(SimTime now) {
    outcomes_.clear();
    setup_.executor->collect(now, outcomes_);
    if (!ORRERY_MUTANT(event_order_ignores_actor)) order_outcomes();
    for (const HostFree& free : outcomes_.host_free) mark(free.instance);
    for (const StepOutcome& outcome : outcomes_.steps) {
      Instance& instance = *instances_[outcome.instance.value()];
      instance.on_outcome(outcome);
      update_view(outcome.instance);
      mark(outcome.instance);
    }
    for (const TransferDone& done : outcomes_.transfers) {
      if (instances_[done.instance.value()]->on_transfer(done.id, now)) mark(done.instance);
    }
  }

  // Within a phase by actor; an executor already delivers so, and a shuffled one must make no difference.
  void order_outcomes() {
    const auto by_instance = [](const auto& a, const auto& b) { return a.instance < b.instance; };
    if (!std::is_sorted(outcomes_.host_free.begin(), outcomes_.host_free.end(), by_instance)) {
      std::sort(outcomes_.host_free.begin(), outcomes_.host_free.end(), by_instance);
    }
    if (!std::is_sorted(outcomes_.steps.begin(), outcomes_.steps.end(), by_instance)) {
      std::sort(outcomes_.steps.begin(), outcomes_.steps.end(), by_instance);
    }
  }

  void take_arrivals(SimTime now) {
    arrivals_.clear();
    setup_.inbox->poll(now, arrivals_);
    const auto by_request = [](const Request& a, const Request& b) { return a.id < b.id; };
    if (!ORRERY_MUTANT(arrival_order_from_container) &&
        !std::is_sorted(arrivals_.begin(), arrivals_.end(), by_request)) {
      std::sort(arrivals_.begin(), arrivals_.end(), by_request);
    }
    for (const Request& request : arrivals_) {
      collector_.arrived(request.arrival);
      if (fleet_) fleet_->ledger().open(request);
      begin(request, now);
    }
  }

  void begin(const Request& request, SimTime now) override {
    if (!apart_) return dispatch(request, PoolRole::mixed, now);
    Request leg = request;
    leg.leg = RequestLeg::prefill;
    handoffs_.open(request);
    dispatch(leg, PoolRole::prefill, now);
  }

  // Prefill legs that were answered go on as decode legs.
  void take_answers(SimTime now) {
    while (handoffs_.next_answer() <= now) {
      Handoff& h = handoffs_.at(handoffs_.pop_answer());
      Request leg = std::move(h.request);
      leg.leg = h.holds_kv ? RequestLeg::decode : RequestLeg::whole;
      h.given_back = !h.holds_kv;
      dispatch(leg, PoolRole::decode, now);
    }
  }

  void begin_pulls(InstanceId id, SimTime now) {
    Instance& instance = *instances_[id.value()];
    for (const PullWork& work : instance.take_pulls()) {
      Handoff& h = handoffs_.at(work.request);
      h.pull_begin = now;
      h.to = id;
      h.sequence = work.sequence;
      instance.observe_pull(work, now);
      setup_.transport->begin({work.request, h.from, id, work.blocks}, now);
    }
  }

  void take_pulled(SimTime now) {
    pulled_.clear();
    setup_.transport->collect(now, pulled_);
    for (const KvPullDone& done : pulled_) {
      Handoff& h = handoffs_.at(done.request);
      if (done.lost) {
        lose_transfer(h, done.request, now);
        continue;
      }
      h.pull_end = done.at;
      if (!h.sequence.is_none() && instances_[h.to.value()]->on_remote_end(h.sequence, done.request, now))
        mark(h.to);
      give_back(h, done.request, now);
    }
  }

  // A decode leg that no engine took.
  void forsake(RequestId request, SimTime now) {
    const Handoff* h = apart_ ? handoffs_.find(request) : nullptr;
    if (h != nullptr && !h->given_back) give_back(*h, request, now);
  }

  void dispatch(const Request& request, PoolRole role, SimTime now) override {
    if (fleet_ && lost_its_holder(request, now)) return;
    if (fleet_ && !group(role).any_open()) return fleet_->park(request, role, now);
    const InstanceId chosen = group(role).choose(request);
    if (fleet_ && !fleet_->runs(chosen)) return lose_unnoticed(request, chosen, now);
    const Place& place = places_[chosen.value()];
    const SimTime at = taken_in(request, chosen, now);
    if (known_gone(request, chosen) < at) {  // the API server drops it: the core never hears of it
      instances_[chosen.value()]->turn_away(request);
      // Images may have taken longer to prepare than the client waited.
      setup_.inbox->on_finished(request.id, later(request.gives_up, now - place.pool->abort_delay));
      return forsake(request.id, now);
    }
    if (place.front_end == nullptr && at == now) return enter(request, chosen, now);
    ++entering_count_[chosen.value()];
    update_view(chosen);
    entering_.push({.at = at, .instance = chosen, .request = request, .life = lives_[chosen.value()]});
  }

  // When the core of `chosen` can do something about `request`.
  SimTime taken_in(const Request& request, InstanceId chosen, SimTime now) {
    const std::size_t i = chosen.value();
    const PoolSetup& pool = *places_[i].pool;
    SimTime at = now + pool.input_delay;
    if (places_[i].front_end != nullptr) {
      at = places_[i].front_end->accept(request.id.value(), request.prompt_tokens, at);
    } else {
      at = later(at, input_free_[i]);
      input_free_[i] = at + pool.input_per_request;
    }
    if (pool.core_wake <= SimDuration(0)) return at;
    if (entering_count_[i] == 0 && instances_[i]->idle()) awake_[i] = at + pool.core_wake;
    return later(at, awake_[i]);
  }

  SimTime known_gone(const Request& request, InstanceId instance) const {
    if (request.gives_up.is_never()) return request.gives_up;
    return request.gives_up + places_[instance.value()].pool->abort_delay;
  }

  void take_entrances(SimTime now) {
    while (entering_.next() <= now) {
      const Entrance e = entering_.pop();
      if (e.life != lives_[e.instance.value()]) {
        lose_unnoticed(e.request, e.instance, now);
        continue;
      }
      --entering_count_[e.instance.value()];
      enter(e.request, e.instance, now);
    }
  }

  void enter(const Request& request, InstanceId chosen, SimTime now) {
    if (fleet_ && lost_its_holder(request, now)) return update_view(chosen);
    Instance& instance = *instances_[chosen.value()];
    setup_.executor->take_input(chosen, request.prompt_tokens, now);
    const SequenceId sequence = instance.add(request, now);
    if (sequence.is_none()) {
      setup_.inbox->on_finished(request.id, now);
      forsake(request.id, now);
      return update_view(chosen);
    }
    if (!request.gives_up.is_never()) {
      departures_.push({.at = known_gone(request, chosen),
                        .instance = chosen,
                        .sequence = sequence,
                        .request = request.id,
                        .life = lives_[chosen.value()]});
    }
    update_view(chosen);
    if (instance.idle()) mark(chosen);
  }

  // Departures of requests that have ended never become events.
  void drop_stale_departures() {
    while (!departures_.empty()) {
      const Departure& d = departures_.front();
      if (is_there(d)) return;
      departures_.pop();
    }
  }

  bool is_there(const Departure& d) const {
    const std::size_t i = d.instance.value();
    return d.life == lives_[i] && instances_[i]->holds(d.sequence, d.request);
  }

  void take_departures(SimTime now) {
    while (departures_.next() <= now) {
      const Departure d = departures_.pop();
      if (is_there(d)) instances_[d.instance.value()]->client_left(d.sequence, now);
    }
  }

  bool schedule_marked(SimTime now) {
    if (to_schedule_.size() > 1) std::sort(to_schedule_.begin(), to_schedule_.end());
    for (const InstanceId id : to_schedule_) {
      marked_[id.value()] = false;
      if (fleet_ && !fleet_->runs(id)) continue;
      if (!instances_[id.value()]->schedule(now)) {
        stuck_ = id;
        return false;
      }
      if (fleet_) setup_.executor->end_before(id, fleet_->next_fault(id));
      if (apart_) begin_pulls(id, now);
      update_view(id);  // an engine may abort
    }
    to_schedule_.clear();
    return true;
  }

  Error exhausted(SimTime now) const {
    const SchedulerView v = instances_[stuck_.value()]->scheduler().view();
    return make_error(ErrorKind::infeasible,
                      "capacity exhausted at simulated time " + std::to_string(now.seconds()) +
                          " s: instance " + std::to_string(stuck_.value()) + " has " +
                          std::to_string(v.waiting) +
                          " waiting requests, nothing runs, and the first one does not fit into its " +
                          std::to_string(v.usable_blocks) +
                          " KV blocks; give it more KV memory or let it take shorter sequences only");
  }

  Result<RunResult> result() {
    Digest digest;
    for (const auto& instance : instances_) {
      if (instance->scheduler().has_work()) {
        return make_error(ErrorKind::internal, "the run ended with requests in flight");
      }
      const SchedulerView end = instance->scheduler().view();
      if (end.free_blocks != end.usable_blocks) {
        return make_error(ErrorKind::internal, "KV blocks leaked: the run ended with " +
                                                   std::to_string(end.free_blocks) + " of " +
                                                   std::to_string(end.usable_blocks) + " free");
      }
    }
    if (!handoffs_.empty()) return make_error(ErrorKind::internal, "the run ended between two legs");
    RunResult r = collector_.finish(static_cast<double>(instances_.size()));
    for (std::size_t i = 0; i < instances_.size(); ++i) tally_->add(i, *instances_[i], true);
    tally_->finish(r, digest);
    if (fleet_) {
      if (!fleet_->ledger().empty() || fleet_->holds_requests())
        return make_error(ErrorKind::internal, "the run ended with requests that nobody serves");
      r.fleet = fleet_->result(r.measured_from, later(r.last_finish, r.measured_from));
      digest.add(fleet_->digest());
      for (const FleetResult::Stay& stay : r.fleet.stays)
        if (setup_.observer != nullptr) setup_.observer->on_stay(stay);
    }
    r.events = events_;
    if (ORRERY_MUTANT(seed_from_address)) digest.add(reinterpret_cast<std::uintptr_t>(this));
    r.digest = digest.value();
    return r;
  }

  std::vector<KvPullDone> pulled_;
  TimedHeap<Entrance> entering_;
  TimedHeap<Departure> departures_;
  Outcomes outcomes_;
  Arrivals arrivals_;
  std::uint64_t events_ = 0;
  InstanceId stuck_;
};

}  // namespace

Result<RunResult> run_simulation(SimulationSetup setup) { return Loop(std::move(setup)).run(); }

}  // namespace orrery
