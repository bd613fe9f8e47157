#include "live/token_witness.h"

namespace orrery {

TokenWitness::Engine& TokenWitness::engine(InstanceId instance) {
  if (instance.value() >= engines_.size()) engines_.resize(instance.value() + 1);
  return engines_[instance.value()];
}

void TokenWitness::set(Engine& engine, SequenceId sequence, RequestId request) {
  if (sequence.value() >= engine.decoding.size())
    engine.decoding.resize(sequence.value() + 1, RequestId::none());
  engine.decoding[sequence.value()] = request;
}

void TokenWitness::submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) {
  Engine& e = engine(instance);
  for (const std::span<const SequenceId> gone : {plan.preempted, plan.aborted})
    for (const SequenceId id : gone) set(e, id, RequestId::none());
  for (const PrefillWork& w : plan.joined) set(e, w.sequence, w.request);
  std::vector<RequestId> tokens;
  if (!plan.stalls_decodes && plan.decode_sequences > 0) {
    std::vector<RequestId> now_decoding = e.decoding;
    for (const SequenceId id : plan.paused)
      if (id.value() < now_decoding.size()) now_decoding[id.value()] = RequestId::none();
    for (const RequestId request : now_decoding)
      if (!request.is_none()) tokens.push_back(request);
  }
  for (const PrefillWork& w : plan.prefill) {
    if (!w.samples) continue;
    if (w.outputs_before > 0) tokens.push_back(w.request);  // resumed: not its first
    set(e, w.sequence, w.request);
  }
  e.open.push_back(std::move(tokens));
  behind_->submit(step, instance, plan, now);
}

void TokenWitness::collect(SimTime now, Outcomes& outcomes) {
  const std::size_t before = outcomes.steps.size();
  behind_->collect(now, outcomes);
  for (std::size_t i = before; i < outcomes.steps.size(); ++i) {
    const StepOutcome& o = outcomes.steps[i];
    Engine& e = engine(o.instance);
    const SimDuration delay = behind_->output_delay(o.instance);
    for (const SimTime update : o.updates) {
      if (e.open.empty()) break;
      const std::vector<RequestId> tokens = std::move(e.open.front());
      e.open.pop_front();
      if (o.spoken.empty())
        for (const RequestId request : tokens) listener_.on_tokens(request, 1, update + delay);
    }
    for (const SpokenTokens& s : o.spoken) {
      const std::int32_t more = s.tokens - (s.first ? 1 : 0);
      if (more > 0) listener_.on_tokens(s.request, more, o.updates.back() + delay);
    }
  }
}

void TokenWitness::ended(InstanceId instance, SequenceId sequence) {
  set(engine(instance), sequence, RequestId::none());
  behind_->ended(instance, sequence);
}

void TokenWitness::reset(InstanceId instance, SimTime now) {
  engine(instance) = {};
  behind_->reset(instance, now);
}

void TokenWitness::on_request_event(const RequestEvent& event) {
  const RequestId request(event.request);
  using Kind = RequestEvent::Kind;
  switch (event.kind) {
    case Kind::first_token: return listener_.on_first_token(request, event.at);
    case Kind::finished: return listener_.on_end(request, static_cast<std::int32_t>(event.tokens), event.at);
    case Kind::rejected: return listener_.on_end(request, 0, event.at);
    case Kind::preempted: return listener_.on_preempted();
    case Kind::admitted: return listener_.on_admitted(event.tokens);
    default: return;
  }
}

}  // namespace orrery
