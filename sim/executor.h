// How long work takes, and how it ends.
#pragma once

#include "base/check.h"
#include "sim/host_link.h"
#include "sim/step_plan.h"

namespace orrery {

// When a step that is open runs on the device, as known so far.
struct DeviceSpan {
  SimTime begin, end;
};

class Executor {
 public:
  virtual ~Executor() = default;
  // Begins a step (or stretch) of an instance whose core thread is free. At most depth() steps are open.
  virtual void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) = 0;
  // Begins transfers over the instance's host link, in this order; `behind_step` means the step submitted
  // last.
  virtual void transfer(InstanceId, std::span<const TransferWork> work, SimTime) {
    ORRERY_CHECK(work.empty(), "this executor has no host link");
  }
  // Ends a running stretch at its first step boundary at or after `at` (now or later); no effect otherwise.
  virtual void cut(InstanceId instance, SimTime at) = 0;
  // The sequence is over, by whatever end came first: its place goes to another one, which none of its later
  // ends may reach.
  virtual void ended(InstanceId instance, SequenceId sequence) = 0;
  // A prompt of so many tokens comes into the process of the instance's core thread: work that a thread at
  // launching a step loses there. No effect where the two have nothing to do with each other.
  virtual void take_input(InstanceId, std::int64_t /*prompt_tokens*/, SimTime) {}
  // Whoever launches the instance's steps is busy with other work for so long before it launches the step
  // submitted at `now`, or the next one. Returns when that work begins. Not where a stretch is open.
  virtual SimTime hold_launch(InstanceId, SimDuration, SimTime now) { return now; }
  // Faults. The instance's process is gone, with its steps and transfers; the next step is its first.
  virtual void reset(InstanceId, SimTime) { ORRERY_CHECK(false, "this executor knows no faults"); }
  // Steps begun from now on: the GPU does its work at `factor` of its speed, and what runs in lockstep with
  // it.
  virtual void set_speed(InstanceId, std::int32_t /*gpu*/, double /*factor*/) {
    ORRERY_CHECK(false, "this executor knows no faults");
  }
  // A running stretch ends at its last boundary before `at`, or at its first.
  virtual void end_before(InstanceId, SimTime /*at*/) {}
  // The next instant at which collect() has something; may move either way after any call, so never cached.
  virtual SimTime next_event() const = 0;
  // Everything due at `now`, ordered by (time, instance, step). Spans are valid until the next call.
  virtual void collect(SimTime now, Outcomes& outcomes) = 0;
  // Of a step that has been submitted and not collected; asked where KV leaves while it is computed.
  virtual DeviceSpan device_span(InstanceId, StepId) const {
    ORRERY_CHECK(false, "this executor does not say when layers end");
    return {};
  }
  // How many steps may be open at an instance.
  virtual std::int32_t depth(InstanceId instance) const = 0;
  // From the end of an update to the client.
  virtual SimDuration output_delay(InstanceId instance) const = 0;
  // More for each output that the step's message holds before this one; a first token is its step's last.
  virtual SimDuration output_per_sequence(InstanceId instance) const = 0;
};

}  // namespace orrery
