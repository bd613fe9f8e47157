#include "sim/instance.h"

#include <algorithm>

namespace orrery {

Instance::Instance(std::unique_ptr<Scheduler> scheduler, const Wiring& wiring)
    : scheduler_(std::move(scheduler)), wiring_(wiring),
      output_delay_(wiring.executor->output_delay(wiring.id)),
      output_per_sequence_(wiring.executor->output_per_sequence(wiring.id)),
      lanes_(static_cast<std::size_t>(scheduler_->lanes())),
      tells_time_(lanes_.size() > 1 || scheduler_->watches_time()) {
  levels_ = scheduler_->view();
  if (wiring_.stream.interval > 1) streams_.emplace(wiring_.stream, lanes_.size(), wiring_.per_request_itl);
}

void Instance::observe_request(RequestEvent::Kind kind, RequestId request, SimTime at, std::uint64_t step,
                               std::int64_t tokens, std::int64_t context) {
  if (wiring_.observer == nullptr) return;
  const SchedulerView v = scheduler_->view();
  wiring_.observer->on_request_event({.kind = kind,
                                      .request = request.value(),
                                      .instance = wiring_.id,
                                      .at = at,
                                      .step = step,
                                      .tokens = tokens,
                                      .context = context,
                                      .running = v.running,
                                      .waiting = v.waiting});
}

void Instance::levels_changed() {
  const SchedulerView v = scheduler_->view();
  const auto used = [](const SchedulerView& x) {
    return 1.0 - static_cast<double>(x.free_blocks) / static_cast<double>(x.usable_blocks);
  };
  wiring_.collector->change_levels(v.running - levels_.running, v.waiting - levels_.waiting,
                                   used(v) - used(levels_));
  levels_ = v;
}

SequenceId Instance::add(const Request& request, SimTime now) {
  if (tells_time_) scheduler_->at(now);
  const SequenceId sequence = scheduler_->add(request);
  if (sequence.is_none()) {
    RequestRecord record;
    record.request = request.id.value();
    record.arrival = request.arrival;
    record.prompt_tokens = request.prompt_tokens;
    record.instance = wiring_.id;
    record.status = RequestStatus::rejected;
    rejected_.push_back(request.id);
    deliver(record, now);
    observe_request(RequestEvent::Kind::rejected, request.id, now, 0, 0, 0);
    return SequenceId::none();
  }
  if (sequence.value() >= progress_.size()) progress_.resize(sequence.value() + 1);
  Progress& p = progress_of(sequence);
  p = Progress{};
  if (holds_tokens()) streams_->open(sequence);
  p.request = request.id;
  p.arrival = request.arrival;
  p.prompt = request.prompt_tokens;
  p.lane = static_cast<std::uint32_t>(sequence.value() % lanes_.size());  // unless admission says another
  p.gives_up = request.gives_up;
  p.times_out = request.times_out;
  clients_may_leave_ |= !request.gives_up.is_never();
  ++outstanding_;
  observe_request(RequestEvent::Kind::arrived, request.id, now, 0, request.prompt_tokens, 0);
  // A queue that was not empty has a head that cannot be admitted, and nobody overtakes it: only the first
  // one in line ends a stretch.
  if (!idle_ && (scheduler_->newcomer_may_run() || scheduler_->may_overtake()))
    wiring_.executor->cut(wiring_.id, now);
  levels_changed();
  return sequence;
}

bool Instance::schedule(SimTime now) {
  if (!departed_.empty()) drop_departed();
  const StepId step = scheduler_->next_step();
  if (!scheduler_->has_work()) {
    idle_ = scheduler_->open_steps() == 0;
    scheduler_->on_idle();
    return true;
  }
  if (tells_time_) scheduler_->at(now);
  const StepPlan& plan = scheduler_->schedule();
  const bool in_flight = scheduler_->open_steps() > (plan.tokens() > 0 ? 1 : 0);  // the step before
  for (std::size_t i = 0; i < plan.aborted.size(); ++i)
    fail_request(plan.aborted[i], now,
                 i < plan.turned_away ? RequestStatus::rejected : RequestStatus::failed);
  for (std::size_t i = 0; i < plan.preempted.size(); ++i) {
    Progress& p = progress_of(plan.preempted[i]);
    ++p.preemptions;
    if (plan.preemption_drops_token) {
      drop_token(plan.preempted[i]);
    } else {
      break_run(plan.preempted[i], static_cast<std::int64_t>(step.value()) - 1, in_flight);
    }
    observe_request(RequestEvent::Kind::preempted, p.request, now, step.value(),
                    static_cast<std::int64_t>(progress_of(plan.preempted_for[i]).request.value()), 0);
  }
  if (!plan.handed.empty()) take_handed(plan, step, now);
  for (const SequenceId sequence : plan.paused)
    break_run(sequence, static_cast<std::int64_t>(step.value()) - 1, in_flight);
  for (const HostLoad& load : scheduler_->host_loads())
    observe_request(RequestEvent::Kind::loading, load.request, now, step.value(), load.tokens, 0);
  if (plan.tokens() == 0 && !plan.empty_batch) {
    wiring_.executor->transfer(wiring_.id, scheduler_->take_transfers(), now);
    idle_ = scheduler_->open_steps() == 0;
    levels_changed();
    if (idle_ && scheduler_->looks_again()) return schedule(now);
    return !idle_ || !scheduler_->has_work() || scheduler_->awaits_transfer();
  }
  idle_ = false;
  record_plan(plan, step, now);
  if (departed_.empty()) {
    wiring_.executor->submit(step, wiring_.id, plan, now);
  } else {
    StepPlan one = plan;  // somebody leaves with its outcome
    one.repeat = 1;
    wiring_.executor->submit(step, wiring_.id, one, now);
  }
  wiring_.executor->transfer(wiring_.id, scheduler_->take_transfers(), now);
  levels_changed();
  return true;
}

bool Instance::on_transfer(std::uint64_t transfer, SimTime now) {
  if (!scheduler_->on_transfer(transfer)) return false;
  if (!idle_) wiring_.executor->cut(wiring_.id, now);
  return idle_;
}

void Instance::record_plan(const StepPlan& plan, StepId step, SimTime now) {
  if (plan.prefill_tokens > 0 && wiring_.relay == nullptr) {
    wiring_.collector->series().count(TimeSeriesRecorder::prefill_tokens, now,
                                      static_cast<double>(plan.prefill_tokens));
  }
  if (!plan.preempted.empty()) {
    wiring_.collector->series().count(TimeSeriesRecorder::preemptions, now,
                                      static_cast<double>(plan.preempted.size()));
  }
  for (const Admission& a : scheduler_->admissions()) {
    Progress& p = progress_of(a.sequence);
    if (!p.admitted) {
      p.first_scheduled = now;
      p.cached = a.cached_tokens;
      if (wiring_.role == PoolRole::prefill) note_admission(p);
      p.lane = static_cast<std::uint32_t>(scheduler_->lane_of(a.sequence));
      if (holds_tokens()) streams_->place(a.sequence, p.lane);
    }
    p.admitted = true;
    observe_request(a.resumed ? RequestEvent::Kind::resumed : RequestEvent::Kind::admitted, p.request, now,
                    step.value(), a.cached_tokens, a.fetched_tokens);
  }
  const std::int64_t batch = plan.decode_sequences + static_cast<std::int64_t>(plan.prefill.size());
  for (const PrefillWork& w : plan.prefill) {
    Progress& p = progress_of(w.sequence);
    p.batch = batch;
    p.computed = w.context + w.new_tokens;
  }
  for (const RankPlan& rank : plan.ranks) {  // each sends a message of its own
    for (const PrefillWork& w : plan.prefill.subspan(rank.first_prefill, rank.prefills))
      progress_of(w.sequence).batch = rank.decode_sequences + static_cast<std::int64_t>(rank.prefills);
  }
  if (wiring_.observer == nullptr) return;
  for (std::size_t i = 0; i < plan.encode.size();) {
    const RequestId request = plan.encode[i].request;
    std::int64_t images = 0, embeddings = 0;
    for (; i < plan.encode.size() && plan.encode[i].request == request; ++i, ++images)
      embeddings += plan.encode[i].embeddings;
    observe_request(RequestEvent::Kind::encoded, request, now, step.value(), images, embeddings);
  }
  for (const PrefillWork& w : plan.prefill) {
    observe_request(RequestEvent::Kind::prefill_chunk, w.request, now, step.value(), w.new_tokens, w.context);
  }
  StepRecord r;
  r.instance = wiring_.id;
  r.step = step.value();
  r.schedule_begin = now;
  r.prefill_tokens = plan.prefill_tokens;
  r.prefill_chunks = static_cast<std::int32_t>(plan.prefill.size());
  r.decode_sequences = plan.decode_sequences;
  r.decode_context_tokens = plan.decode_context_tokens;
  r.running = plan.running;
  r.waiting = plan.waiting;
  r.preempted = static_cast<std::int32_t>(plan.preempted.size());
  r.new_requests = plan.new_requests;
  r.free_blocks = plan.free_blocks;
  records_.push_back(r);
}

// The sequence's next gap will not be the gap between two consecutive updates. Its last token is that of step
// `last`, which may still be in flight.
void Instance::break_run(SequenceId sequence, std::int64_t last, bool in_flight) {
  Progress& p = progress_of(sequence);
  if (holds_tokens()) streams_->leaves_after(sequence, last, !in_flight);
  p.left_out = last;
  if (!p.admitted || p.broken) return;
  p.broken = true;
  p.run_last = last;
  if (in_flight) {
    awaiting_token_.push_back(sequence);
  } else {
    p.last_token = lane_of(p).last_update;
  }
}

// The same for a sequence whose token in flight is thrown away: its last token is that of the last update.
void Instance::drop_token(SequenceId sequence) {
  Progress& p = progress_of(sequence);
  if (holds_tokens()) streams_->leaves_now(sequence);
  if (!p.has_token || p.broken) return;
  stand_apart(p, lane_of(p).last_update, lane_of(p).last_update_step);
}

// The sequence's last token came at `at` with `step`; its next gap counts from there.
void Instance::stand_apart(Progress& p, SimTime at, std::int64_t step) {
  p.broken = true;
  p.run_last = step;
  p.last_token = at;
}

// The first token after a break: one gap of its own, and a new run of regular ones begins.
void Instance::join_run(Progress& p, SimTime at, std::int64_t step) {
  const std::int64_t gap = (at - p.last_token).ns();
  if (!holds_tokens()) wiring_.collector->gap(gap, 1, at);
  if (wiring_.per_request_itl && !holds_tokens()) {
    p.extra_gaps.push_back(gap);
    if (p.run_first < p.run_last) p.segments.push_back({p.run_first + 1, p.run_last});
  }
  p.broken = false;
  p.rejoined = true;
  p.run_first = step;
}

void Instance::on_outcome(const StepOutcome& outcome) {
  if (tells_time_) scheduler_->at(outcome.at);
  const UpdateEffects& effects = scheduler_->on_outcome(outcome);
  told_ = outcome.updates;
  if (holds_tokens())
    told_ = streams_->take(outcome, effects, wiring_.front_end, *wiring_.collector);
  else if (wiring_.front_end != nullptr)
    tell_clients(outcome, effects);
  else if (wiring_.client_prepares)
    wait_for_preparation(outcome);
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    times_.add(outcome.updates[i].ns());
    if (wiring_.front_end != nullptr || wiring_.client_prepares) times_.add(told_[i].ns());
  }
  double decoded = 0;
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) decoded += note_updates(outcome, effects, lane);
  decoded += static_cast<double>(effects.further_tokens);
  wiring_.collector->series().count(TimeSeriesRecorder::decode_tokens, outcome.updates.back(), decoded);
  if (outcome.scheduled > 1) ++stretches_;
  for (const FirstToken& token : effects.first_tokens) take_first_token(token, outcome);
  for (const Irregular& token : effects.irregular) {
    Progress& p = progress_of(token.sequence);
    const SimTime at = told_[token.update];
    const auto step = static_cast<std::int64_t>(outcome.first.value() + token.update);
    join_run(p, at, step);
    if (token.apart && clients_may_leave_) note_apart(p, at);
    // Left out again while this token was in flight.
    if (token.apart || p.left_out >= step) stand_apart(p, at, step);
  }
  for (const SequenceId sequence : awaiting_token_) progress_of(sequence).last_token = told_.front();
  awaiting_token_.clear();
  if (clients_may_leave_) note_deliveries(outcome, effects);
  for (const Finished& f : effects.finished) finish(f, outcome);
  wiring_.executor->transfer(wiring_.id, scheduler_->take_transfers(), outcome.at);
  if (wiring_.observer != nullptr) observe_steps(outcome);
  if (wiring_.per_request_itl && !holds_tokens()) trim_gap_log();
  levels_changed();
}

// Gaps between one rank's updates; returns its regular decodes.
double Instance::note_updates(const StepOutcome& outcome, const UpdateEffects& effects, std::size_t lane) {
  Lane& l = lanes_[lane];
  const std::size_t updates = outcome.updates.size();
  const bool log = wiring_.per_request_itl && !holds_tokens();
  double decoded = 0;
  for (std::size_t i = 0; i < updates; ++i) {
    const SimTime at = told_[i];
    const std::size_t place = lane * updates + i;
    if (effects.was_stalled(place)) {
      if (log) l.gaps.push_back(-1);
      continue;
    }
    const std::int64_t gap = l.last_update.is_never() ? 0 : (at - l.last_update).ns();
    const auto weight = static_cast<std::uint64_t>(effects.regular_decodes[place]);
    if (weight > 0 && !holds_tokens()) wiring_.collector->gap(gap, weight, at);
    decoded += static_cast<double>(weight);
    if (log) l.gaps.push_back(gap);
    l.last_update = at;
    l.last_update_step = static_cast<std::int64_t>(outcome.first.value() + i);
  }
  return decoded;
}

void Instance::observe_steps(const StepOutcome& outcome) {
  const auto emit = [&](StepRecord r, const StepStamp& begin, SimTime device_end, SimTime update_end) {
    if (r.prefill_chunks + r.decode_sequences == 0) return;  // of nobody (StepPlan::empty_batch)
    r.schedule_begin = begin.schedule_begin;
    r.launch_begin = begin.launch_begin;
    r.device_begin = begin.device_begin;
    r.device_end = device_end;
    r.update_end = update_end;
    wiring_.observer->on_step(r);
  };
  ORRERY_CHECK(!records_.empty(), "an outcome belongs to an open step");
  if (outcome.updates.size() == 1) {
    emit(records_.front(), outcome.first_stamp, outcome.first_stamp.device_end, outcome.updates.front());
    records_.erase(records_.begin());
    return;
  }
  // A stretch of pure decode steps behind the steps that were open when it began: those end first.
  std::size_t done = 0;
  if (records_.size() > 1) {
    emit(records_.front(), outcome.first_stamp, outcome.first_stamp.device_end, outcome.updates.front());
    records_.erase(records_.begin());
    done = 1;
  }
  StepRecord& open = records_.front();
  StepRecord stretch = open;
  stretch.steps = static_cast<std::int64_t>(outcome.updates.size() - done);
  emit(stretch, done == 1 ? outcome.second_stamp : outcome.first_stamp, outcome.last_stamp.device_end,
       outcome.updates.back());
  open.step += static_cast<std::uint64_t>(stretch.steps);
  open.decode_context_tokens += stretch.steps * open.decode_sequences;
  if (scheduler_->open_steps() == 0) records_.erase(records_.begin());
}

void Instance::take_first_token(const FirstToken& token, const StepOutcome& outcome) {
  Progress& p = progress_of(token.sequence);
  const SimTime at = told_[token.update];
  const auto step = static_cast<std::int64_t>(outcome.first.value() + token.update);
  // Preempted again, or for the first time, while this very token was in flight.
  const bool apart = token.apart || p.left_out >= step;
  if (token.resumed) {
    join_run(p, at, step);
    if (apart) stand_apart(p, at, step);
    return;
  }
  p.first_token = at + output_delay_;
  // With a front end `at` is when the last output of the message has left.
  if (wiring_.front_end == nullptr) p.first_token += SimDuration(output_per_sequence_.ns() * (p.batch - 1));
  p.has_token = true;
  if (wiring_.answers != nullptr) wiring_.answers->first_token(p.request);
  p.run_first = step;
  p.broken = false;  // preempted before: there was nothing to break
  if (apart) stand_apart(p, at, step);
  // Nobody sees it.
  if (wiring_.role == PoolRole::prefill || wiring_.relay != nullptr || p.lost) return;
  observe_request(RequestEvent::Kind::first_token, p.request, p.first_token, static_cast<std::uint64_t>(step),
                  0, 0);
}

void Instance::finish(const Finished& f, const StepOutcome& outcome) {
  wiring_.executor->ended(wiring_.id, f.sequence);
  if (!departed_.empty()) std::erase(departed_, f.sequence);
  const Progress& p = progress_of(f.sequence);
  if (p.lost) {
    if (f.held) scheduler_->on_remote_end(f.sequence, false);
    return forget(f.sequence);
  }
  // A first token that is the last one too has waited its turn in the step's outputs.
  const SimTime at = later(told_[f.update] + output_delay_, p.first_token);
  if (wiring_.role == PoolRole::prefill) return hand_over(f, at);
  if (wiring_.relay != nullptr) return relay(f, at);
  if (p.gives_up < at) return end_unanswered(f.sequence, f.output_tokens);
  RequestRecord record = begin_record(p);
  record.ttft = p.first_token - p.arrival;
  record.e2e = at - p.arrival;
  if (wiring_.role == PoolRole::decode) add_handoff(p, record);
  record.output_tokens = f.output_tokens;
  record.drafts = f.drafts;
  record.accepted_drafts = f.accepted;
  if (wiring_.per_request_itl)
    fill_itl(f.sequence, static_cast<std::int64_t>(outcome.first.value() + f.update), record);
  --outstanding_;
  deliver(record, at);
  if (!p.left) wiring_.inbox->on_finished(f.request, at);
  observe_request(RequestEvent::Kind::finished, f.request, at, outcome.first.value() + f.update,
                  f.output_tokens, 0);
  progress_of(f.sequence).request = RequestId::none();
}

void Instance::fail_request(SequenceId sequence, SimTime now, RequestStatus status) {
  wiring_.executor->ended(wiring_.id, sequence);
  Progress& p = progress_of(sequence);
  if (holds_tokens()) streams_->close(sequence);
  std::erase(departed_, sequence);
  if (p.left || p.lost) return end_unanswered(sequence, 0);
  if (wiring_.role == PoolRole::decode && try_again(sequence)) return;
  RequestRecord record = begin_record(p);
  record.e2e = now - p.arrival;
  record.status = status;
  --outstanding_;
  times_.add(p.request.value());
  deliver(record, now);
  tell_inbox(p.request, now);
  observe_request(RequestEvent::Kind::rejected, p.request, now, 0, 0, 0);
  p.request = RequestId::none();
}

RequestRecord Instance::begin_record(const Progress& p) const {
  RequestRecord record;
  record.request = p.request.value();
  record.arrival = p.arrival;
  record.queue = p.first_scheduled - p.arrival;
  record.prompt_tokens = p.prompt;
  record.cached_tokens = p.cached;
  record.preemptions = p.preemptions;
  record.instance = wiring_.id;
  if (const Handoff* h = handoff_of(p)) {
    if (!h->first_scheduled.is_never()) record.queue = h->first_scheduled - p.arrival;
    record.cached_tokens = h->cached;
    record.preemptions += h->preemptions;
  }
  return record;
}

// The event loops of the API server take every step's message in turn.
void Instance::tell_clients(const StepOutcome& outcome, const UpdateEffects& effects) {
  outputs_of_.assign(outcome.updates.size(), 0);
  for (std::size_t i = 0; i < effects.regular_decodes.size(); ++i)
    outputs_of_[i % outcome.updates.size()] += effects.regular_decodes[i];
  for (const FirstToken& token : effects.first_tokens) ++outputs_of_[token.update];
  for (const Irregular& token : effects.irregular) ++outputs_of_[token.update];
  told_late_.clear();
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    const std::int64_t sequences = outputs_of_[i];
    told_late_.push_back(wiring_.front_end->deliver(
        outcome.updates[i],
        {.sequences = sequences, .tokens = sequences + effects.further_tokens, .events = sequences}));
  }
  told_ = told_late_;
}

// vLLM: AsyncLLM.add_request prepares on the event loop that its output handler runs on too
// (v1/engine/async_llm.py; an API server's renderer has a thread for it).
void Instance::wait_for_preparation(const StepOutcome& outcome) {
  told_late_.clear();
  for (const SimTime update : outcome.updates)
    told_late_.push_back(wiring_.inbox->client_reads(update, output_delay_));
  told_ = told_late_;
}

void Instance::fill_itl(SequenceId sequence, std::int64_t last_step, RequestRecord& record) {
  const Progress& p = progress_of(sequence);
  std::vector<std::int64_t> all = holds_tokens() ? streams_->gaps(sequence) : p.extra_gaps;
  const auto append = [&](Segment s) {
    for (std::int64_t step = s.first; step <= s.last; ++step) {
      const std::int64_t gap = lanes_[p.lane].gaps[static_cast<std::size_t>(step - gaps_base_)];
      if (gap >= 0) all.push_back(gap);
    }
  };
  if (!holds_tokens()) {
    for (const Segment& s : p.segments) append(s);
    append({p.run_first + 1, p.broken ? std::min(p.run_last, last_step) : last_step});
  }
  if (all.empty()) return;
  std::sort(all.begin(), all.end());
  const std::size_t n = all.size();
  record.itl_p50 = all[std::min(n - 1, n / 2)];
  record.itl_p99 = all[std::min(n - 1, n * 99 / 100)];
  record.itl_max = all.back();
}

// Drops gaps that no request in flight can still ask for; amortised over a doubling.
void Instance::trim_gap_log() {
  const std::size_t known = lanes_.front().gaps.size();
  if (known < trim_at_) return;
  std::int64_t oldest = gaps_base_ + static_cast<std::int64_t>(known);
  for (const Progress& p : progress_) {
    if (p.request.is_none() || !p.has_token) continue;
    oldest = std::min(oldest, p.segments.empty() ? p.run_first + 1 : p.segments.front().first);
  }
  const auto drop = static_cast<std::ptrdiff_t>(std::max<std::int64_t>(0, oldest - gaps_base_));
  for (Lane& lane : lanes_) lane.gaps.erase(lane.gaps.begin(), lane.gaps.begin() + drop);
  gaps_base_ += drop;
  trim_at_ = std::max<std::size_t>(1u << 16, 2 * lanes_.front().gaps.size());
}

std::uint64_t Instance::digest() const {
  Digest d = times_;
  d.add(scheduler_->digest());
  for (const RequestId id : rejected_) d.add(id.value());
  if (wiring_.role != PoolRole::mixed) d.add(remote_.value());
  return d.value();
}

}  // namespace orrery
