// An instance is a pipeline of resources (architecture §5.1): core thread (schedule, update), launcher
// (the core thread itself in a single-process engine, worker processes otherwise), device stream, output
// path. This file is the recurrence, in integer nanoseconds; executors and `orrery cost` share it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/time.h"

namespace orrery {

// Durations of one step on each resource, nanoseconds, all ≥ 0.
struct StepTiming {
  std::int64_t schedule = 0;      // core thread: deciding what to run
  std::int64_t prepare = 0;       // end of schedule to the first kernel launch (input preparation, RPC)
  std::int64_t launch = 0;        // from the first launch to the return of the last one
  std::int64_t first_kernel = 0;  // from the first launch to the first kernel on a device that waits for it
  std::int64_t step_gap = 0;      // device: between the last kernel of a step and the first of the next
  std::int64_t busy = 0;          // device: sum of kernels, no gaps
  std::int64_t last_kernel = 0;   // device: from the last launch's return to the end of the last kernel
  std::int64_t copy = 0;          // device end → sampled tokens readable by the core thread
  std::int64_t update = 0;        // core thread: processing the outputs
  std::int64_t gap = 0;           // core thread: from the end of an update to the next schedule
  // Device work ahead of the step's own kernels, launched first (an encoder): it may wait for its launches.
  std::int64_t ahead = 0, ahead_launch = 0;  // ahead_launch is a part of launch
  bool needs_tokens = false;  // launched only when the tokens of the step before are on the host
  friend bool operator==(const StepTiming&, const StepTiming&) = default;
};

// When things happened to one step.
struct StepTimes {
  SimTime schedule_begin, schedule_end, launch_begin, launch_end;
  SimTime device_begin, device_end, update_begin, update_end;
};

// The state of the pipeline between steps. Two steps may be open (submitted, not updated) at depth 2.
//   S  = when the core is free;             L0 = S + schedule + prepare (on the launcher, when it is free)
//                                           (needs_tokens: not before D(previous) + copy)
//   L1 = L0 + launch;                       B  = max(D(previous), L0)
//   K  = max(D(previous) + step_gap, L0 + first_kernel); work ahead: K ← max(K + ahead, L0 + ahead_launch)
//   D  = max(K + busy, L1 + last_kernel);   U  = max(D + copy, core free) … + update
// B is where a log's clock starts (an event recorded as the launch begins), K where kernels begin to run.
class HostPipeline {
 public:
  explicit HostPipeline(bool launcher_is_core) : launcher_is_core_(launcher_is_core) {}

  // Begins a step at `now` (precondition: now ≥ core_free()). Fills everything but the update times.
  StepTimes begin(const StepTiming& t, SimTime now) {
    StepTimes s;
    s.schedule_begin = now;
    s.schedule_end = now + SimDuration(t.schedule);
    s.launch_begin = s.schedule_end + SimDuration(t.prepare);
    if (s.launch_begin < launcher_free_) s.launch_begin = launcher_free_;
    if (t.needs_tokens) s.launch_begin = later(s.launch_begin, device_free_ + SimDuration(t.copy));
    s.launch_end = s.launch_begin + SimDuration(t.launch);
    launcher_free_ = s.launch_end;
    core_free_ = launcher_is_core_ ? s.launch_end : s.schedule_end;
    s.device_begin = later(device_free_, s.launch_begin);
    SimTime runs =
        later(device_free_ + SimDuration(t.step_gap), s.launch_begin + SimDuration(t.first_kernel));
    if (t.ahead > 0) runs = later(runs + SimDuration(t.ahead), s.launch_begin + SimDuration(t.ahead_launch));
    s.device_end = later(runs + SimDuration(t.busy), s.launch_end + SimDuration(t.last_kernel));
    device_free_ = s.device_end;
    return s;
  }

  // At `now` other work of `more` takes the core thread while it launches `s`, the step begun last. Returns
  // false, and does nothing, when it is not at that (or others launch).
  bool delay_launch(const StepTiming& t, StepTimes& s, SimDuration more, SimTime now) {
    const bool launching = s.launch_begin <= now && now < s.launch_end;
    if (!launcher_is_core_ || !launching || more <= SimDuration(0)) return false;
    s.launch_end = s.launch_end + more;
    launcher_free_ = core_free_ = s.launch_end;
    s.device_end = later(s.device_end, s.launch_end + SimDuration(t.last_kernel));
    device_free_ = s.device_end;
    return true;
  }

  // Before the launch of `s`, the step begun last, the launcher is busy with other work for so long. Returns
  // when that work begins.
  SimTime hold_launch(const StepTiming& t, StepTimes& s, SimDuration work) {
    const SimTime begin = s.launch_begin;
    s.launch_begin = begin + work;
    s.launch_end = s.launch_end + work;
    launcher_free_ = s.launch_end;
    if (launcher_is_core_) core_free_ = s.launch_end;
    s.device_begin = later(s.device_begin, s.launch_begin);
    const std::int64_t before = std::max(t.first_kernel + t.ahead, t.ahead_launch);
    s.device_end = later(later(s.device_end, s.launch_begin + SimDuration(before + t.busy)),
                         s.launch_end + SimDuration(t.last_kernel));
    device_free_ = s.device_end;
    return begin;
  }

  // The same with no step to launch: the next one is launched after it. The core thread goes on.
  SimTime occupy_launcher(SimTime from, SimDuration work) {
    const SimTime begin = later(from, launcher_free_);
    launcher_free_ = begin + work;
    return begin;
  }

  // The device has something else to do until then.
  void occupy_device(SimTime until) { device_free_ = later(device_free_, until); }

  // Processes the outputs of the oldest open step, whose begin() returned `s`.
  void update(const StepTiming& t, StepTimes& s) {
    s.update_begin = later(s.device_end + SimDuration(t.copy), core_free_);
    s.update_end = s.update_begin + SimDuration(t.update);
    core_free_ = s.update_end + SimDuration(t.gap);
  }

  // A log says when the device was done with what it does not list: the next step follows that.
  void device_known_free(SimTime at) { device_free_ = at; }

  SimTime core_free() const { return core_free_; }      // when the core thread may schedule again
  SimTime device_free() const { return device_free_; }  // end of the last submitted step on the device
  friend bool operator==(const HostPipeline&, const HostPipeline&) = default;

 private:
  bool launcher_is_core_;
  SimTime core_free_, launcher_free_, device_free_;
};

}  // namespace orrery
