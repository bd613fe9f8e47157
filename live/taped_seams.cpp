#include "live/taped_seams.h"

#include <bit>

namespace orrery {

namespace {

class TapedClock final : public Clock {
 public:
  TapedClock(SeamTape& tape, Clock* behind) : tape_(tape), behind_(behind) {}
  SimTime wait_until(SimTime deadline) override {
    return tape_.reading(deadline, [&](SimTime due) { return behind_->wait_until(due); });
  }

 private:
  SeamTape& tape_;
  Clock* behind_;
};

// What the loop told; each kind of word has a number of its own in the digest.
enum Told : std::uint8_t {
  submit = 1,
  transfer,
  cut,
  ended,
  input,
  hold,
  reset,
  speed,
  end_before,
  finished,
  pull,
  send,
  forget,
  link,
  anew,
  load,
  drop_load
};

void tell_plan(SeamTape& tape, const StepPlan& plan) {
  for (const PrefillWork& w : plan.prefill)
    tape.tell(w.sequence.value(), w.request.value(), w.new_tokens, w.context, w.samples, w.outputs_before);
  tape.tell(plan.prefill.size(), plan.decode_sequences, plan.decode_context_tokens, plan.decode_irregular,
            plan.new_requests, plan.running, plan.waiting, plan.free_blocks, plan.repeat, plan.draft_tokens,
            plan.load_blocks, plan.stalls_decodes, plan.encode.size(), plan.joined.size());
  for (const std::span<const SequenceId> list : {plan.preempted, plan.paused, plan.aborted})
    for (const SequenceId id : list) tape.tell(id.value());
  for (const VerifyWork& w : plan.verify) tape.tell(w.sequence.value(), w.drafts);
  for (const HandedWork& w : plan.handed) tape.tell(w.sequence.value(), w.tokens);
}

class TapedExecutor final : public Executor {
 public:
  TapedExecutor(SeamTape& tape, Executor* behind) : tape_(tape), behind_(behind) {}
  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override {
    tape_.tell(Told::submit, step.value(), instance.value());
    tell_plan(tape_, plan);
    if (behind_) behind_->submit(step, instance, plan, now);
  }
  void transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) override {
    if (!work.empty()) tape_.tell(Told::transfer, instance.value(), work.size());
    if (behind_) behind_->transfer(instance, work, now);
  }
  void cut(InstanceId instance, SimTime at) override {
    tape_.tell(Told::cut, instance.value(), at.ns());
    if (behind_) behind_->cut(instance, at);
  }
  void ended(InstanceId instance, SequenceId sequence) override {
    tape_.tell(Told::ended, instance.value(), sequence.value());
    if (behind_) behind_->ended(instance, sequence);
  }
  void take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) override {
    tape_.tell(Told::input, instance.value(), prompt_tokens);
    if (behind_) behind_->take_input(instance, prompt_tokens, now);
  }
  SimTime hold_launch(InstanceId instance, SimDuration length, SimTime now) override {
    tape_.tell(Told::hold, instance.value(), length.ns());
    return tape_.answer(TapeWord::launch_held, now,
                        [&] { return behind_->hold_launch(instance, length, now); });
  }
  void reset(InstanceId instance, SimTime now) override {
    tape_.tell(Told::reset, instance.value());
    if (behind_) behind_->reset(instance, now);
  }
  void set_speed(InstanceId instance, std::int32_t gpu, double factor) override {
    tape_.tell(Told::speed, instance.value(), gpu, std::bit_cast<std::uint64_t>(factor));
    if (behind_) behind_->set_speed(instance, gpu, factor);
  }
  void end_before(InstanceId instance, SimTime at) override {
    tape_.tell(Told::end_before, instance.value(), at.ns());
    if (behind_) behind_->end_before(instance, at);
  }
  // Playing, the clock knows when; all that counts is whether the run goes on.
  SimTime next_event() const override {
    if (behind_) return behind_->next_event();
    return tape_.goes_on() ? tape_.now() : SimTime::never();
  }
  void collect(SimTime now, Outcomes& outcomes) override {
    if (!behind_) return tape_.play_outcomes(outcomes);
    behind_->collect(now, outcomes);
    tape_.record_outcomes(outcomes);
  }
  DeviceSpan device_span(InstanceId instance, StepId step) const override {
    const SimTime now = tape_.now();
    return tape_.answer(TapeWord::device_span, DeviceSpan{now, now},
                        [&] { return behind_->device_span(instance, step); });
  }
  std::int32_t depth(InstanceId instance) const override {
    return tape_.answer(TapeWord::depth, 1, [&] { return behind_->depth(instance); });
  }
  SimDuration output_delay(InstanceId instance) const override {
    return tape_.answer(TapeWord::output_delay, SimDuration(0),
                        [&] { return behind_->output_delay(instance); });
  }
  SimDuration output_per_sequence(InstanceId instance) const override {
    return tape_.answer(TapeWord::output_per_sequence, SimDuration(0),
                        [&] { return behind_->output_per_sequence(instance); });
  }

 private:
  SeamTape& tape_;
  Executor* behind_;  // null: playing
};

class TapedInbox final : public Inbox {
 public:
  TapedInbox(SeamTape& tape, Inbox* behind) : tape_(tape), behind_(behind) {}
  SimTime next() const override {
    if (behind_) return behind_->next();
    return tape_.arrivals_come() ? tape_.now() : SimTime::never();
  }
  void poll(SimTime now, Arrivals& arrivals) override {
    tape_.append(TapeWord::arrivals, arrivals, [&](Arrivals& a) { behind_->poll(now, a); });
  }
  void poll_departures(SimTime now, std::vector<RequestId>& gone) override {
    tape_.append(TapeWord::departures, gone, [&](auto& g) { behind_->poll_departures(now, g); });
  }
  void on_finished(RequestId request, SimTime at) override {
    tape_.tell(Told::finished, request.value(), at.ns());
    if (behind_) behind_->on_finished(request, at);
  }
  SimTime client_reads(SimTime update, SimDuration delay) override {
    return tape_.answer(TapeWord::client_reads, update, [&] { return behind_->client_reads(update, delay); });
  }
  const Error* error() const override { return behind_ ? behind_->error() : nullptr; }

 private:
  SeamTape& tape_;
  Inbox* behind_;  // null: playing
};

class TapedTransport final : public KvTransport {
 public:
  TapedTransport(SeamTape& tape, KvTransport* behind) : tape_(tape), behind_(behind) {}
  SimDuration posting(const KvPull& pull) const override {
    return tape_.answer(TapeWord::posting, SimDuration(0), [&] { return behind_->posting(pull); });
  }
  void begin(const KvPull& p, SimTime now) override {
    tape_.tell(Told::pull, p.request.value(), p.from.value(), p.to.value(), p.blocks, p.posted_from.ns(),
               p.from_rank, p.to_rank);
    if (behind_) behind_->begin(p, now);
  }
  void send(const KvSend& s, SimTime now) override {
    tape_.tell(Told::send, s.request.value(), s.from.value(), s.to.value(), s.blocks, s.first, s.last, s.of);
    if (behind_) behind_->send(s, now);
  }
  void forget(RequestId request, SimTime now) override {
    tape_.tell(Told::forget, request.value());
    if (behind_) behind_->forget(request, now);
  }
  SimTime next_event() override { return behind_ ? behind_->next_event() : SimTime::never(); }
  void collect(SimTime now, std::vector<KvPullDone>& done) override {
    tape_.append(TapeWord::pulls, done, [&](std::vector<KvPullDone>& d) { behind_->collect(now, d); });
  }
  void set_link(std::uint32_t link, double factor, SimTime now) override {
    tape_.tell(Told::link, link, std::bit_cast<std::uint64_t>(factor));
    if (behind_) behind_->set_link(link, factor, now);
  }
  void begin_anew(InstanceId instance) override {
    tape_.tell(Told::anew, instance.value());
    if (behind_) behind_->begin_anew(instance);
  }
  void load(InstanceId instance, InstanceId peer, SimTime now) override {
    tape_.tell(Told::load, instance.value(), peer.value());
    if (behind_) behind_->load(instance, peer, now);
  }
  void drop_load(InstanceId instance, SimTime now) override {
    tape_.tell(Told::drop_load, instance.value());
    if (behind_) behind_->drop_load(instance, now);
  }
  bool load_stuck(InstanceId instance) const override {
    return tape_.answer(TapeWord::load_stuck, false, [&] { return behind_->load_stuck(instance); });
  }
  SimTime next_load() override { return behind_ ? behind_->next_load() : SimTime::never(); }
  void take_loaded(SimTime now, std::vector<InstanceId>& done) override {
    tape_.append(TapeWord::loaded, done, [&](std::vector<InstanceId>& d) { behind_->take_loaded(now, d); });
  }

 private:
  SeamTape& tape_;
  KvTransport* behind_;  // null: playing
};

}  // namespace

struct TapedSeams::Wrappers {
  std::unique_ptr<TapedClock> clock;
  std::unique_ptr<TapedExecutor> executor;
  std::unique_ptr<TapedInbox> inbox;
  std::unique_ptr<TapedTransport> transport;
};

TapedSeams::TapedSeams(SeamTape& tape) : tape_(tape), wrappers_(std::make_unique<Wrappers>()) {}
TapedSeams::~TapedSeams() = default;

void TapedSeams::arrange(SimulationSetup& setup) {
  const bool records = !tape_.plays();
  wrappers_->clock = std::make_unique<TapedClock>(tape_, records ? setup.clock : nullptr);
  wrappers_->executor = std::make_unique<TapedExecutor>(tape_, records ? setup.executor : nullptr);
  setup.clock = wrappers_->clock.get();
  setup.executor = wrappers_->executor.get();
  if (records) {
    wrappers_->inbox = std::make_unique<TapedInbox>(tape_, setup.inbox);
    setup.inbox = wrappers_->inbox.get();
  }
  if (setup.transport == nullptr) return;
  wrappers_->transport = std::make_unique<TapedTransport>(tape_, records ? setup.transport : nullptr);
  setup.transport = wrappers_->transport.get();
}

std::unique_ptr<Inbox> TapedSeams::inbox() { return std::make_unique<TapedInbox>(tape_, nullptr); }

}  // namespace orrery
