// Prefill and decode apart: what an instance hands over, and what it was handed.
#include "sim/instance.h"

namespace orrery {

// What a request leaves behind at this instance as its last word.
void Instance::deliver(const RequestRecord& record, SimTime at) {
  const RequestId request(record.request);
  if (wiring_.ledger != nullptr && !silent()) {
    RequestRecord whole = record;
    wiring_.ledger->close(whole);
    wiring_.collector->finished(whole, at);
  } else if (!silent()) {
    wiring_.collector->finished(record, at);
  }
  if (wiring_.answers != nullptr) wiring_.answers->over(request, record.output_tokens);
  if (wiring_.relay != nullptr) wiring_.relay->drop(request);
  if (wiring_.handoffs == nullptr) return;
  if (wiring_.role == PoolRole::decode) {
    wiring_.handoffs->over(request);
    wiring_.handoffs->settle(request);
  } else if (silent()) {
    if (Handoff* const h = wiring_.handoffs->find(request)) h->prefill_over = true;
    wiring_.handoffs->settle(request);
  } else if (wiring_.role == PoolRole::prefill) {
    wiring_.handoffs->drop(request);
  }
}

void Instance::note_admission(const Progress& p) {
  if (p.lost) return;
  Handoff& h = wiring_.handoffs->at(p.request);
  h.first_scheduled = p.first_scheduled;
  h.cached = p.cached;
}

// A prefill leg is answered: at `at` the proxy knows. Who is gone by then wants nothing fetched; the engine
// would keep the blocks for its lease of 30 s, which nobody extends, where here they go back.
void Instance::hand_over(const Finished& f, SimTime at) {
  Progress& p = progress_of(f.sequence);
  if (p.gives_up < at && !silent()) {
    if (f.held) scheduler_->on_remote_end(f.sequence, false);
    return end_unanswered(f.sequence, f.output_tokens);
  }
  Handoff& h = wiring_.handoffs->at(p.request);
  h.from = wiring_.id;
  h.life = wiring_.life;
  h.held = f.sequence;
  h.holds_kv = f.held;
  h.preemptions = p.preemptions;
  h.answered = at;
  h.said_eos = f.said_eos;
  h.prefill_over = true;
  if (wiring_.answers != nullptr) wiring_.answers->over(p.request, f.output_tokens);
  --outstanding_;
  if (silent()) {
    wiring_.handoffs->settle(p.request);
  } else {
    wiring_.handoffs->answer(p.request);
    observe_request(RequestEvent::Kind::answered, p.request, at, 0, 0, 0);
  }
  p.request = RequestId::none();
}

// An encoder instance has answered: at `at` the proxy knows.
void Instance::relay(const Finished& f, SimTime at) {
  Progress& p = progress_of(f.sequence);
  if (p.gives_up < at) return end_unanswered(f.sequence, f.output_tokens);
  wiring_.relay->answered(p.request, wiring_.id, wiring_.life, at);
  --outstanding_;
  if (wiring_.answers != nullptr) wiring_.answers->over(p.request, f.output_tokens);
  observe_request(RequestEvent::Kind::answered, p.request, at, 0, 0, 0);
  p.request = RequestId::none();
}

void Instance::add_handoff(const Progress& p, RequestRecord& record) const {
  const Handoff* const h = handoff_of(p);
  if (h == nullptr) return;
  HandoffTimes& t = record.handoff;
  t.apart = true;
  t.prefill_instance = h->from;
  const bool moved = !h->pull_end.is_never();
  const SimTime end = moved ? h->pull_end : p.first_scheduled;
  const SimTime scheduled = earlier(h->first_scheduled, end);
  // Fetched: answered, then begun. Sent: computed, then what was not hidden, once there was room.
  const bool sent = wiring_.handoffs->rules.at_once;
  const SimTime ready = later(scheduled, earlier(sent ? h->computed_at : h->answered, end));
  const SimTime begin = moved ? earlier(later(ready, sent ? h->room_at : h->pull_begin), end) : end;
  t.queue = scheduled - p.arrival;
  t.prefill = ready - scheduled;
  t.wait = begin - ready;
  t.transfer = end - begin;
  t.decode_queue = p.first_scheduled - end;
  t.first_step = p.first_token - p.first_scheduled;
}

// First tokens that came with the KV: they are passed on before the step is launched.
void Instance::take_handed(const StepPlan& plan, StepId step, SimTime now) {
  const auto count = static_cast<std::int64_t>(plan.handed.size());
  const SimTime told =
      wiring_.front_end == nullptr
          ? now
          : wiring_.front_end->deliver(now, {.sequences = count, .tokens = count, .events = count});
  times_.add(told.ns());
  for (const HandedWork& work : plan.handed) {
    Progress& p = progress_of(work.sequence);
    p.admitted = true;
    p.lane = static_cast<std::uint32_t>(scheduler_->lane_of(work.sequence));
    p.first_scheduled = now;
    if (wiring_.answers != nullptr) wiring_.answers->first_token(p.request);
    observe_request(RequestEvent::Kind::admitted, p.request, now, step.value(), work.tokens, work.tokens);
    const auto last = static_cast<std::int64_t>(step.value()) - 1;
    p.first_token = told + output_delay_;
    p.has_token = true;
    p.run_first = last;
    stand_apart(p, told, last);
    if (clients_may_leave_) note_apart(p, told);
    observe_request(RequestEvent::Kind::first_token, p.request, p.first_token, step.value(), 0, 0);
    if (work.ends) end_handed(work.sequence, p.first_token);
  }
}

// Its only token was handed over.
void Instance::end_handed(SequenceId sequence, SimTime at) {
  Progress& p = progress_of(sequence);
  std::erase(departed_, sequence);
  if (p.lost) return forget(sequence);
  if (p.gives_up < at) return end_unanswered(sequence, 1);
  RequestRecord record = begin_record(p);
  record.ttft = record.e2e = at - p.arrival;
  add_handoff(p, record);
  record.output_tokens = 1;
  --outstanding_;
  deliver(record, at);
  if (!p.left) tell_inbox(p.request, at);
  observe_request(RequestEvent::Kind::finished, p.request, at, scheduler_->next_step().value(), 1, 0);
  p.request = RequestId::none();
}

bool Instance::on_remote_end(SequenceId sequence, RequestId request, bool said_eos, SimTime now) {
  remote_.add(request.value());
  remote_.add(now.ns());
  if (!scheduler_->on_remote_end(sequence, said_eos)) return false;
  if (!idle_) wiring_.executor->cut(wiring_.id, now);
  return idle_;
}

bool Instance::on_remote_failure(SequenceId sequence, RequestId request, SimTime now) {
  remote_.add(~request.value());
  remote_.add(now.ns());
  if (!scheduler_->on_remote_failure(sequence)) return false;
  if (!idle_) wiring_.executor->cut(wiring_.id, now);
  return idle_;
}

// The engine has given up a request whose transfer failed; whether the proxy sends it again.
bool Instance::try_again(SequenceId sequence) {
  Progress& p = progress_of(sequence);
  Handoff* const h = wiring_.handoffs->find(p.request);
  if (h == nullptr || !h->failed || h->failures > wiring_.handoffs->rules.retries) return false;
  h->again = true;
  if (wiring_.answers != nullptr) wiring_.answers->over(p.request, 0);
  wiring_.handoffs->settle(p.request);
  --outstanding_;
  times_.add(p.request.value());
  p.request = RequestId::none();
  return true;
}

void Instance::observe_pull(const PullWork& pull, SimTime now) {
  observe_request(RequestEvent::Kind::pulling, pull.request, now, scheduler_->next_step().value(),
                  pull.blocks, 0);
}

void Instance::observe_pull_end(RequestId request, bool failed, SimTime now) {
  using Kind = RequestEvent::Kind;
  observe_request(failed ? Kind::transfer_failed : Kind::pulled, request, now, 0, 0, 0);
}

}  // namespace orrery
