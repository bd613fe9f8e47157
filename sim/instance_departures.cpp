// Clients that go before their answer is complete.
#include <algorithm>

#include "sim/instance.h"

namespace orrery {

void Instance::turn_away(const Request& request) {
  RequestRecord record;
  record.request = request.id.value();
  record.arrival = request.arrival;
  record.e2e = request.gives_up - request.arrival;
  record.prompt_tokens = request.prompt_tokens;
  record.instance = wiring_.id;
  record.status = request.times_out ? RequestStatus::timed_out : RequestStatus::cancelled;
  rejected_.push_back(request.id);
  deliver(record, request.gives_up);
}

// Engines look at their queue of messages between steps, so a stretch ends at its next boundary; the step in
// flight runs to its end all the same.
void Instance::client_left(SequenceId sequence, SimTime now) {
  Progress& p = progress_of(sequence);
  if (p.left) return;  // a request that came here twice may have the place of before
  p.left = true;
  if (holds_tokens()) streams_->client_left(sequence);
  departed_.push_back(sequence);
  tell_inbox(p.request, p.gives_up);
  wiring_.executor->cut(wiring_.id, now);
}

SequenceId Instance::find_staying(RequestId request) const {
  for (std::size_t i = 0; i < progress_.size(); ++i) {
    const Progress& p = progress_[i];
    if (p.request == request && !p.lost && p.gives_up.is_never())
      return SequenceId(static_cast<std::uint32_t>(i));
  }
  return SequenceId::none();
}

void Instance::set_gives_up(SequenceId sequence, SimTime now) {
  progress_of(sequence).gives_up = now;
  clients_may_leave_ = true;
}

bool Instance::abandon(SequenceId sequence, SimTime now) {
  Progress& p = progress_of(sequence);
  if (!p.left) departed_.push_back(sequence);  // else nothing but this may wake an idle engine to drop it
  p.left = true;
  if (!idle_) wiring_.executor->cut(wiring_.id, now);
  return idle_;
}

void Instance::drop_departed() {
  std::size_t kept = 0;
  for (const SequenceId sequence : departed_) {
    const std::int32_t outputs = scheduler_->drop_departed(sequence);
    if (outputs < 0) {
      departed_[kept++] = sequence;
      continue;
    }
    wiring_.executor->ended(wiring_.id, sequence);
    std::erase(awaiting_token_, sequence);
    if (holds_tokens()) streams_->close(sequence);
    end_unanswered(sequence, outputs);
  }
  departed_.resize(kept);
  levels_changed();
}

// The client went away before the answer was complete; `outputs` tokens had been processed by then or since.
void Instance::end_unanswered(SequenceId sequence, std::int32_t outputs) {
  Progress& p = progress_of(sequence);
  if (p.lost) return forget(sequence);
  RequestRecord record = begin_record(p);
  const Handoff* const h = handoff_of(p);  // whose prefill leg has its own time in a queue
  if (!p.admitted && (h == nullptr || h->first_scheduled.is_never())) record.queue = p.gives_up - p.arrival;
  if (p.has_token && p.first_token <= p.gives_up) {
    record.ttft = p.first_token - p.arrival;
    record.output_tokens = delivered_by(sequence, p.gives_up, outputs);
    if (wiring_.role == PoolRole::decode) add_handoff(p, record);
  }
  record.e2e = p.gives_up - p.arrival;
  record.status = p.times_out ? RequestStatus::timed_out : RequestStatus::cancelled;
  --outstanding_;
  times_.add(p.request.value());
  times_.add(static_cast<std::int64_t>(record.output_tokens));
  deliver(record, p.gives_up);
  if (!p.left) tell_inbox(p.request, p.gives_up);
  observe_request(RequestEvent::Kind::departed, p.request, p.gives_up, 0, record.output_tokens, 0);
  p.request = RequestId::none();
}

// Of its tokens those that came too late are taken away: at least the first one was in time.
std::int32_t Instance::delivered_by(SequenceId sequence, SimTime at, std::int32_t outputs) const {
  const Progress& p = progress_[sequence.value()];
  std::int32_t late = 0;
  for (const SimTime told : p.apart) late += told + output_delay_ > at ? 1 : 0;
  for (auto d = deliveries_.rbegin(); p.apart.empty() && d != deliveries_.rend() && d->at > at; ++d) {
    if (d->lane != p.lane) continue;
    const bool in_run = d->step > p.run_first || (d->step == p.run_first && p.rejoined);
    if (in_run && (!p.broken || d->step <= p.run_last)) ++late;
  }
  const std::int32_t processed = std::max(1, outputs - late);
  return holds_tokens() ? streams_->sent_by(sequence, at - output_delay_, processed) : processed;
}

// The engine learns of a departure within a few steps: older tokens were in time.
void Instance::note_apart(Progress& p, SimTime at) {
  constexpr std::size_t kept = 64;
  if (p.apart.size() == kept) p.apart.erase(p.apart.begin(), p.apart.begin() + kept / 2);
  p.apart.push_back(at);
}

// Remembers updates for as long as a client may turn out to have left before them.
void Instance::note_deliveries(const StepOutcome& outcome, const UpdateEffects& effects) {
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
      if (effects.was_stalled(lane * outcome.updates.size() + i)) continue;
      deliveries_.push_back({told_[i] + output_delay_, static_cast<std::int64_t>(outcome.first.value() + i),
                             static_cast<std::uint32_t>(lane)});
    }
  }
  SimTime oldest = outcome.at - wiring_.abort_delay;
  for (const SequenceId sequence : departed_) oldest = earlier(oldest, progress_of(sequence).gives_up);
  while (!deliveries_.empty() && deliveries_.front().at <= oldest) deliveries_.pop_front();
}

}  // namespace orrery
