// Prefill and decode apart: what an instance hands over, and what it was handed.
#include "sim/instance.h"

namespace orrery {

// What a request leaves behind at this instance as its last word.
void Instance::deliver(const RequestRecord& record, SimTime at) {
  if (wiring_.ledger != nullptr) {
    RequestRecord whole = record;
    wiring_.ledger->close(whole);
    wiring_.collector->finished(whole, at);
  } else {
    wiring_.collector->finished(record, at);
  }
  if (wiring_.handoffs == nullptr) return;
  if (wiring_.role == PoolRole::prefill)
    wiring_.handoffs->drop(RequestId(record.request));
  else
    wiring_.handoffs->over(RequestId(record.request));
}

// A prefill leg is answered: at `at` the proxy knows. Who is gone by then wants nothing fetched; the engine
// would keep the blocks for its lease of 30 s, which nobody extends, where here they go back.
void Instance::hand_over(const Finished& f, SimTime at) {
  Progress& p = progress_of(f.sequence);
  if (p.gives_up < at) {
    if (f.held) scheduler_->on_remote_end(f.sequence);
    return end_unanswered(f.sequence, f.output_tokens);
  }
  Handoff& h = wiring_.handoffs->at(p.request);
  h.from = wiring_.id;
  h.life = wiring_.life;
  h.held = f.sequence;
  h.holds_kv = f.held;
  h.first_scheduled = p.first_scheduled;
  h.cached = p.cached;
  h.preemptions = p.preemptions;
  h.answered = at;
  wiring_.handoffs->answer(p.request);
  --outstanding_;
  observe_request(RequestEvent::Kind::answered, p.request, at, 0, 0, 0);
  p.request = RequestId::none();
}

void Instance::add_handoff(const Progress& p, RequestRecord& record) const {
  const Handoff& h = wiring_.handoffs->at(p.request);
  HandoffTimes& t = record.handoff;
  t.apart = true;
  t.prefill_instance = h.from;
  t.queue = h.first_scheduled - p.arrival;
  t.prefill = h.answered - h.first_scheduled;
  const bool pulled = !h.pull_end.is_never();
  const SimTime begin = pulled ? h.pull_begin : p.first_scheduled, end = pulled ? h.pull_end : begin;
  t.wait = begin - h.answered;
  t.transfer = end - begin;
  t.decode_queue = p.first_scheduled - end;
  t.first_step = p.first_token - p.first_scheduled;
}

bool Instance::on_remote_end(SequenceId sequence, RequestId request, SimTime now) {
  remote_.add(request.value());
  remote_.add(now.ns());
  if (wiring_.role == PoolRole::decode) observe_request(RequestEvent::Kind::pulled, request, now, 0, 0, 0);
  if (!scheduler_->on_remote_end(sequence)) return false;
  if (!idle_) wiring_.executor->cut(wiring_.id, now);
  return idle_;
}

void Instance::observe_pull(const PullWork& pull, SimTime now) {
  observe_request(RequestEvent::Kind::pulling, pull.request, now, scheduler_->next_step().value(),
                  pull.blocks, 0);
}

}  // namespace orrery
