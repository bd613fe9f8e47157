// Who gets a token when. The simulation keeps decodes as sums, and only a client's stream has to know names:
// this wrapper of the executor follows plans and outcomes as the executor itself does
// (sim/costed/end_tracker.h has the same rules) and, as the run's observer, hears of first tokens and ends,
// which are exact. Work in proportion to tokens; for runs in which clients wait for each of them.
#pragma once

#include <deque>
#include <vector>

#include "sim/executor.h"
#include "sim/results.h"

namespace orrery {

class TokenListener {
 public:
  virtual ~TokenListener() = default;
  // The client has `count` more tokens at `at`, the request's first one not among them.
  virtual void on_tokens(RequestId request, std::int32_t count, SimTime at) = 0;
  virtual void on_first_token(RequestId request, SimTime at) = 0;
  // All is over: `tokens` in all, 0 when it was refused or failed.
  virtual void on_end(RequestId request, std::int32_t tokens, SimTime at) = 0;
  virtual void on_levels(const StepRecord& step) = 0;
  virtual void on_preempted() {}
  virtual void on_admitted(std::int64_t cached_tokens) = 0;
};

// Steps must come one at a time (RunOptions::stretches false).
class TokenWitness final : public Executor, public RunObserver, public RecordSink {
 public:
  explicit TokenWitness(TokenListener& listener) : listener_(listener) {}
  void stand_before(Executor* behind) { behind_ = behind; }

  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override;
  void collect(SimTime now, Outcomes& outcomes) override;
  void ended(InstanceId instance, SequenceId sequence) override;
  void reset(InstanceId instance, SimTime now) override;

  void transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) override {
    behind_->transfer(instance, work, now);
  }
  void cut(InstanceId instance, SimTime at) override { behind_->cut(instance, at); }
  void take_input(InstanceId instance, std::int64_t tokens, SimTime now) override {
    behind_->take_input(instance, tokens, now);
  }
  SimTime hold_launch(InstanceId instance, SimDuration length, SimTime now) override {
    return behind_->hold_launch(instance, length, now);
  }
  void set_speed(InstanceId instance, std::int32_t gpu, double factor) override {
    behind_->set_speed(instance, gpu, factor);
  }
  void end_before(InstanceId instance, SimTime at) override { behind_->end_before(instance, at); }
  SimTime next_event() const override { return behind_->next_event(); }
  DeviceSpan device_span(InstanceId instance, StepId step) const override {
    return behind_->device_span(instance, step);
  }
  std::int32_t depth(InstanceId instance) const override { return behind_->depth(instance); }
  SimDuration output_delay(InstanceId instance) const override { return behind_->output_delay(instance); }
  SimDuration output_per_sequence(InstanceId instance) const override {
    return behind_->output_per_sequence(instance);
  }

  void on_step(const StepRecord& step) override { listener_.on_levels(step); }
  void on_request_event(const RequestEvent& event) override;
  // Of one that ended without an answer, by whatever way: at the latest now.
  void on_request(const RequestRecord& record) override {
    if (record.status != RequestStatus::completed)
      listener_.on_end(RequestId(record.request), 0, record.arrival + record.e2e);
  }

 private:
  struct Engine {
    std::vector<RequestId> decoding;          // by sequence slot; none: the slot decodes for nobody
    std::deque<std::vector<RequestId>> open;  // by open step: who gets a token of it, first tokens left out
  };
  Engine& engine(InstanceId instance);
  static void set(Engine& engine, SequenceId sequence, RequestId request);

  TokenListener& listener_;
  Executor* behind_ = nullptr;
  std::vector<Engine> engines_;
};

}  // namespace orrery
