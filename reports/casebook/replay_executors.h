// The two executors that stand beside CostModelExecutor (architecture §3): one takes step times from a
// measured run and lets everything else follow, one takes the measured outcomes themselves. Both run under
// the same loop, scheduler and pool as a simulation; they offer no stretches (run the scheduler with
// stretches = false) and know no end but the client's limit.
#pragma once

#include <deque>
#include <functional>
#include <vector>

#include "costmodel/pipeline.h"
#include "costmodel/step_pricer.h"
#include "reports/casebook/measured_run.h"
#include "sim/executor.h"
#include "sim/inbox.h"

namespace orrery {

// One instance. The timing of a step is what `times` makes of its shape and price; the rest is the pipeline
// recurrence, as in a simulation.
class StepTimeExecutor final : public Executor {
 public:
  using Times = std::function<StepTiming(const StepShape&, const StepTiming& priced)>;
  // `profile_host`: host times are the profile's, so that a launching core thread also loses what prompts
  // that come in meanwhile cost it; logged ones contain that.
  StepTimeExecutor(const StepPricer& pricer, Times times, bool profile_host);

  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override;
  void cut(InstanceId, SimTime) override {}
  void take_input(InstanceId, std::int64_t prompt_tokens, SimTime now) override;
  void ended(InstanceId, SequenceId) override {}
  SimTime next_event() const override;
  void collect(SimTime now, Outcomes& outcomes) override;
  std::int32_t depth(InstanceId) const override { return pricer_.steps_in_flight(); }
  SimDuration output_delay(InstanceId) const override { return pricer_.output_delay(); }
  SimDuration output_per_sequence(InstanceId) const override { return pricer_.output_per_sequence(); }

 private:
  struct Open {
    StepTiming timing;
    StepTimes times;
    bool prompts_alone = false;
  };
  const StepPricer& pricer_;
  Times times_;
  bool profile_host_;
  HostPipeline pipeline_;
  std::deque<Open> open_;
  bool host_free_due_ = false;
  std::uint64_t next_update_ = 0;
  SimTime update_;  // of the outcome just collected
  std::vector<PrefillChunk> chunks_;
};

// One instance, teacher-forced: the n-th step that the scheduler composes begins and ends when the n-th
// logged step did. What differs from the log then is what lies outside of the engine's steps.
class OutcomeExecutor final : public Executor {
 public:
  OutcomeExecutor(const StepPricer& pricer, const MeasuredExperiment& experiment);

  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override;
  void cut(InstanceId, SimTime) override {}
  void ended(InstanceId, SequenceId) override {}
  SimTime next_event() const override;
  void collect(SimTime now, Outcomes& outcomes) override;
  std::int32_t depth(InstanceId) const override { return pricer_.steps_in_flight(); }
  SimDuration output_delay(InstanceId) const override { return pricer_.output_delay(); }
  SimDuration output_per_sequence(InstanceId) const override { return pricer_.output_per_sequence(); }
  // Steps composed beyond the last one in the log (0 when the schedule is the log's).
  std::uint64_t beyond() const { return submitted_ > steps_.size() ? submitted_ - steps_.size() : 0; }

 private:
  struct Logged {
    SimTime schedule, update_begin, update_end;
  };
  const Logged& logged(std::uint64_t step) const;
  bool host_free_first() const;

  const StepPricer& pricer_;
  std::vector<Logged> steps_;
  Logged after_;  // for steps beyond the log: at its end
  std::uint64_t submitted_ = 0, updated_ = 0;
  SimTime now_, update_;
};

// Requests reach the engine when the log says that it knew them, whatever the clock would have made of it.
// `known_at_ns` by request (−1 = never: left out).
class LoggedInbox final : public Inbox {
 public:
  LoggedInbox(const MeasuredExperiment& experiment, const std::vector<std::int64_t>& known_at_ns,
              const std::vector<std::size_t>& order);
  SimTime next() const override;
  void poll(SimTime now, Arrivals& arrivals) override;
  void on_finished(RequestId, SimTime) override {}

 private:
  std::vector<std::pair<SimTime, Request>> requests_;
  std::size_t at_ = 0;
};

}  // namespace orrery
