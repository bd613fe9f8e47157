#include "sim/simulation.h"

#include <algorithm>
#include <array>
#include <set>

#include "base/mutation.h"
#include "sim/arrival_batch.h"
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
                              .telemetry = setup_.telemetry,
                              .batch = {},
                              .front_end = setup_.front_end,
                              .input_delay = {},
                              .proxy_delay = {},
                              .input_per_request = setup_.input_per_request,
                              .core_wake = setup_.core_wake,
                              .abort_delay = setup_.abort_delay,
                              .stream = setup_.stream});
    }
    places_.reserve(setup_.schedulers.size());
    for (const PoolSetup& pool : setup_.pools) {
      RouterGroup& group = groups_[static_cast<std::size_t>(pool.role)];
      if (!group.has_router()) {
        group.set_router(pool.router, pool.telemetry, &clock_);
        if (pool.batch) batches_[static_cast<std::size_t>(pool.role)].emplace(*pool.batch);
        batching_ |= pool.batch.has_value();
      }
      for (std::size_t i = 0; i < pool.instances; ++i) {
        places_.push_back({.pool = &pool, .group = &group, .in_group = group.next_place()});
        group.add(InstanceId(static_cast<std::uint32_t>(places_.size() - 1)));
        if (pool.front_end) places_.back().front_end = std::make_unique<FrontEnd>(*pool.front_end);
      }
    }
    ORRERY_CHECK(places_.size() == setup_.schedulers.size(), "pools hold all instances");
    if (!group(PoolRole::encoder).empty()) relay_.emplace(places_.size());
    if (!group(PoolRole::prefill).empty()) split_requests();
    ORRERY_CHECK((!apart_ && !relay_) || setup_.transport != nullptr, "pools apart need a transport");
    make_instances();
  }

  Result<RunResult> run() {
    check_context() = {.sim_time_ns = 0, .seed = setup_.seed, .digest = 0};
    if (!may_go_on()) return interrupted(SimTime(0));  // of many short runs none gets to the next question
    for (;;) {
      drop_stale_departures();
      SimTime due = earlier(earlier(setup_.executor->next_event(), setup_.inbox->next()),
                            earlier(entering_.next(), departures_.next()));
      if (apart_) due = earlier(due, apart_->next_event());
      if (relay_) due = earlier(due, earlier(relay_->next(), setup_.transport->next_event()));
      if (batching_) due = earlier(due, next_batch());
      if (fleet_ && (!due.is_never() || fleet_->holds_requests()))
        due = earlier(due, earlier(fleet_->next(), next_load()));
      if (due.is_never()) break;
      const SimTime now = setup_.clock->wait_until(due);
      clock_ = {.now = now};
      ++events_;
      check_context().sim_time_ns = now.ns();
      collector_.advance(now);
      if (apart_) apart_->take_layers(now);
      take_outcomes(now);
      if (apart_) apart_->take_ended(now);
      if (relay_ && !apart_) take_fetched(now);
      if (fleet_) take_loaded(now);
      if (fleet_) fleet_->change(now);
      clock_.taken = true;
      if (setup_.inbox->next() <= now) take_arrivals(now);
      if (batching_) send_batches(now);
      if (apart_) apart_->take_answers(now);
      if (relay_) take_encoded(now);
      if (entering_.next() <= now) take_entrances(now);
      do {
        if (apart_) apart_->settle(now);
        if (!schedule_marked(now)) return exhausted(now);
      } while (apart_ && settle(now));
      if (departures_.next() <= now) take_departures(now);
      if (fleet_) fleet_->settle(now);
      if ((events_ & 0x3FF) == 0 && !may_go_on()) return interrupted(now);
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
      if (apart_) apart_->take_work(outcome.instance, now);
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
    gone_.clear();
    setup_.inbox->poll_departures(now, gone_);
    for (const RequestId request : gone_) client_gone(request, now);
  }

  // Nobody knew beforehand. Who is on the way to a core leaves when it is there; legs of split requests and
  // their images go on to their end.
  void client_gone(RequestId request, SimTime now) {
    if (apart_ || relay_) return;
    for (const auto& instance : instances_) {
      const SequenceId sequence = instance->find_staying(request);
      if (sequence.is_none()) continue;
      const auto at = static_cast<std::uint32_t>(&instance - instances_.data());
      return give_up(InstanceId(at), sequence, request, now);
    }
    left_early_.insert(request);
  }

  void give_up(InstanceId at, SequenceId sequence, RequestId request, SimTime now) {
    instances_[at.value()]->set_gives_up(sequence, now);
    departures_.push({.at = now + places_[at.value()].pool->abort_delay,
                      .instance = at,
                      .sequence = sequence,
                      .request = request,
                      .life = lives_[at.value()]});
  }

  void begin(const Request& request, SimTime now) override {
    if (relay_ && !request.images.empty())
      route(relay_->open(request), PoolRole::encoder, now);
    else if (apart_)
      apart_->arrived(request, now);
    else
      route(request, PoolRole::mixed, now);
  }

  // At once, or with the batch that it arrives in.
  void route(const Request& request, PoolRole role, SimTime now, bool at_proxy = false) {
    auto& batch = batches_[static_cast<std::size_t>(role)];
    if (!batch) return dispatch(request, role, now, at_proxy);
    batch->add(request, now);
  }

  SimTime next_batch() const {
    SimTime next = SimTime::never();
    for (const auto& batch : batches_)
      if (batch) next = earlier(next, batch->closes());
    return next;
  }

  void send_batches(SimTime now) {
    for (std::size_t role = 0; role < batches_.size(); ++role) {
      if (!batches_[role] || batches_[role]->closes() > now) continue;
      for (const Request& request : batches_[role]->take())
        dispatch(request, static_cast<PoolRole>(role), now, at_proxy(request));
    }
  }

  void split_requests() {
    ORRERY_CHECK(setup_.transport != nullptr, "prefill and decode pools need a transport");
    apart_.emplace(setup_.pd, *setup_.transport, *setup_.executor, instances_,
                   PrefillDecode::Loop{.mark = [this](InstanceId id) { mark(id); },
                                       .dispatch = [this](const Request& leg, PoolRole role, SimTime now,
                                                          bool at_proxy) { route(leg, role, now, at_proxy); },
                                       .over = [this](InstanceId at, RequestId id) { over_at(at, id); },
                                       .fetched = [this](const KvPullDone& done,
                                                         SimTime now) { return take_fetched(done, now); },
                                       .has_mixed = !group(PoolRole::mixed).empty(),
                                       .lives = &lives_});
  }

  // Whether a leg's end was news to an instance, which may go on with it at this very instant.
  bool settle(SimTime now) {
    apart_->settle(now);
    return !to_schedule_.empty();
  }

  // Embeddings that have come.
  void take_fetched(SimTime now) {
    pulled_.clear();
    setup_.transport->collect(now, pulled_);
    for (const KvPullDone& done : pulled_) take_fetched(done, now);
  }
  // False: what has come are no embeddings. (A request's come before any of its KV leaves.)
  bool take_fetched(const KvPullDone& done, SimTime now) {
    if (!relay_ || !relay_->waits(done.request)) return false;
    const Entrance e = relay_->fetched(done.request);
    if (!done.failed) {
      enter_fetched(e, now);
      return true;
    }
    ++fetches_failed_;
    --relayed_[e.instance.value()];
    relay_->given_back(e.from);
    lose_embeddings(e, now);
    return true;
  }

  // Requests whose images are encoded: to a language instance, where their images are prepared again, and
  // into its engine.
  void take_encoded(SimTime now) {
    while (relay_->next_answer() <= now) {
      EncoderRelay::Sent sent = relay_->pop_answer();
      if (fleet_ && found_gone(sent, now)) continue;
      if (apart_) sent.request = apart_->begin(sent.request);
      const PoolRole role = apart_ ? PoolRole::prefill : PoolRole::mixed;
      sent.to = choose(sent.request, role, {sent.from, sent.from_life}, now);
      if (sent.to.is_none()) continue;
      sent.to_life = lives_[sent.to.value()];
      ++relayed_[sent.to.value()];
      update_view(sent.to);
      relay_->prepare(std::move(sent), places_[sent.to.value()].pool->from_proxy);
    }
    while (relay_->next_prepared() <= now) {
      EncoderRelay::Sent sent = relay_->pop_prepared();
      if (went(sent.to, sent.to_life, sent.request, {sent.from, sent.from_life}, now)) continue;
      const SimTime at = taken_in(sent.request, sent.to, now, false);
      --relayed_[sent.to.value()];
      ++entering_count_[sent.to.value()];
      entering_.push({.at = at,
                      .instance = sent.to,
                      .from = sent.from,
                      .request = std::move(sent.request),
                      .life = sent.to_life,
                      .from_life = sent.from_life});
    }
  }

  void fetch(Entrance e, SimTime now) {
    if (e.from_life != lives_[e.from.value()]) return lose_embeddings(e, now);
    setup_.transport->begin({e.request.id, e.from, e.instance, EncoderRelay::embeddings_of(e.request), now},
                            now);
    ++relayed_[e.instance.value()];
    relay_->wait(std::move(e));
  }

  void enter_fetched(const Entrance& e, SimTime now) {
    --relayed_[e.instance.value()];
    relay_->given_back(e.from);
    if (known_gone(e.request, e.instance) >= now) return enter(e.request, e.instance, now);
    Instance& instance = *instances_[e.instance.value()];
    instance.turn_away(e.request);
    update_view(e.instance);
    instance.tell_inbox(e.request.id,
                        later(e.request.gives_up, now - places_[e.instance.value()].pool->abort_delay));
    if (apart_) apart_->forsake(e.request.id, now);
  }

  void dispatch(const Request& request, PoolRole role, SimTime now, bool at_proxy) override {
    if (fleet_ && (stale(request) || lost_its_holder(request, now))) return;
    const InstanceId chosen = choose(request, role, {}, now);
    if (chosen.is_none()) return;
    bind(request, chosen);
    const Place& place = places_[chosen.value()];
    const SimTime at = taken_in(request, chosen, now, at_proxy);
    if (known_gone(request, chosen) < at) {  // the API server drops it: the core never hears of it
      Instance& instance = *instances_[chosen.value()];
      bind(request, InstanceId::none());
      instance.turn_away(request);
      // Images may have taken longer to prepare than the client waited.
      instance.tell_inbox(request.id, later(request.gives_up, now - place.pool->abort_delay));
      if (apart_) apart_->forsake(request.id, now);
      return;
    }
    if (place.front_end == nullptr && at == now) return enter(request, chosen, now);
    ++entering_count_[chosen.value()];
    update_view(chosen);
    entering_.push({.at = at,
                    .instance = chosen,
                    .from = InstanceId::none(),
                    .request = request,
                    .life = lives_[chosen.value()]});
  }

  // When the core of `chosen` can do something about `request`.
  SimTime taken_in(const Request& request, InstanceId chosen, SimTime now, bool at_proxy) {
    const std::size_t i = chosen.value();
    const PoolSetup& pool = *places_[i].pool;
    // Behind the proxy's answer images are prepared again, one request after another: the client's request is
    // passed on as it was. Their way to the core is beside the next one's preparation.
    if (at_proxy && request.preparation > SimDuration(0)) {
      images_free_[i] = later(images_free_[i], now) + request.preparation;
      now = images_free_[i] + request.sending;
    }
    SimTime at = now + (at_proxy ? pool.proxy_delay : pool.input_delay);
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
      Entrance e = entering_.pop();
      if (went(e.instance, e.life, e.request, {e.from, e.from_life}, now)) continue;
      --entering_count_[e.instance.value()];
      e.from.is_none() ? enter(e.request, e.instance, now) : fetch(std::move(e), now);
    }
  }

  void enter(const Request& request, InstanceId chosen, SimTime now) {
    if (stale(request)) return update_view(chosen);
    if (fleet_ && lost_its_holder(request, now)) {
      over_at(chosen, request.id);
      return update_view(chosen);
    }
    Instance& instance = *instances_[chosen.value()];
    setup_.executor->take_input(chosen, request.prompt_tokens, now);
    const bool left_early = !left_early_.empty() && left_early_.erase(request.id) > 0;
    const SequenceId sequence = instance.add(request, now);
    bind(request, InstanceId::none());
    if (sequence.is_none()) {
      instance.tell_inbox(request.id, now);
      if (apart_) apart_->forsake(request.id, now);
      return update_view(chosen);
    }
    if (apart_) apart_->entered(request, chosen, sequence);
    if (!request.gives_up.is_never()) {
      departures_.push({.at = known_gone(request, chosen),
                        .instance = chosen,
                        .sequence = sequence,
                        .request = request.id,
                        .life = lives_[chosen.value()]});
    } else if (left_early) {
      give_up(chosen, sequence, request.id, now);
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
      if (apart_) apart_->take_work(id, now);
      if (fleet_) setup_.executor->end_before(id, fleet_->next_fault(id));
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
    if (relay_ && !relay_->empty()) return make_error(ErrorKind::internal, "the run ended beside an encoder");
    if (apart_ && !apart_->handoffs().empty())
      return make_error(ErrorKind::internal, "the run ended between two legs");
    RunResult r = collector_.finish(static_cast<double>(instances_.size()));
    for (std::size_t i = 0; i < instances_.size(); ++i) tally_->add(i, *instances_[i], true);
    tally_->finish(r, digest);
    if (apart_) r.transfers.retried = apart_->retried();
    if (fleet_) {
      if (!fleet_->ledger().empty() || fleet_->holds_requests())
        return make_error(ErrorKind::internal, "the run ended with requests that nobody serves");
      r.fleet = fleet_->result(r.measured_from, later(r.last_finish, r.measured_from));
      r.fleet.transfers_lost = fetches_failed_ + (apart_ ? apart_->failed() : 0);
      digest.add(fleet_->digest());
      for (const FleetResult::Stay& stay : r.fleet.stays)
        if (setup_.observer != nullptr) setup_.observer->on_stay(stay);
    }
    r.events = events_;
    if (ORRERY_MUTANT(seed_from_address)) digest.add(reinterpret_cast<std::uintptr_t>(this));
    r.digest = digest.value();
    return r;
  }

  std::array<std::optional<ArrivalBatch>, pool_roles> batches_;
  bool batching_ = false;
  std::vector<KvPullDone> pulled_;
  TimedHeap<Entrance> entering_;
  TimedHeap<Departure> departures_;
  Outcomes outcomes_;
  Arrivals arrivals_;
  std::vector<RequestId> gone_;
  std::set<RequestId> left_early_;
  std::uint64_t events_ = 0, fetches_failed_ = 0;
  InstanceId stuck_;
};

}  // namespace

Result<RunResult> run_simulation(SimulationSetup setup) { return Loop(std::move(setup)).run(); }

}  // namespace orrery
