// The recurrence of pipeline stages that are driven by a ring of micro-batches: every stage is a process
// whose one thread composes, launches, waits for results and processes them (SGLang 0.5.23, `event_loop_pp`
// and `_pp_launch_batch` in managers/scheduler_pp_mixin.py; TensorRT-LLM 1.2, `_executor_loop_pp`). The loop
// itself: sim/micro_batch_ring.h. One core thread and launchers apart from it are vLLM's: staged_pipeline.h.
#pragma once

#include <optional>
#include <vector>

#include "costmodel/staged_pipeline.h"

namespace orrery {

// The oldest open step, where its result is processed before the step at hand is handed on.
struct AwaitedStep {
  StepTiming timing;
  StepTimes times;
};

// For step n on stage s, T(s) when the stage's thread is free, A the awaited step if there is one:
//   R(s)  = T(s) + schedule; with s > 0 not before P(s−1) + message     what the stage before sent is met
//   L0(s) = R(s) + prepare;  L1(s) = L0(s) + launch(s)
//   X(s)  = max(D(n, s−1), R(s)) + handoff(s)
//   K(s)  = max(D(n−1, s) + step_gap, L0(s) + first_kernel, X(s), X(n−1, s+1))
//   D(s)  = max(K(s) + busy(s), L1(s) + last_kernel(s))
//   P(s)  = L1(s); with A max(L1(s), O(A, s)) + update                  only then the next stage is told
//   T(s)  = P(s) + gap
//   O(A, 0) = D(A, last) + tokens_back + copy
//   O(A, s) = O(A, s−1) + schedule + prepare + launch(s−1) + message
//
// Results go round from stage to stage, each passing on what it had in its last turn: taken to be as long as
// a turn at this step (assumed). TensorRT-LLM (`tells_first`) sends on what is to run before it launches, so
// R(s) = max(T(s), Q(s−1) + message) + schedule, where Q(0) = R(0) and Q(s) = max(T(s), Q(s−1) + message);
// hidden states go from device to device behind what stands there, X(s) = max(D(n, s−1), D(n−1, s), L0(s)) +
// handoff(s); and before the awaited result a thread waits until its own device has ended the step before,
// P(s) = max(L1(s), D(n−1, s), O(A, s)) + update.
class RingPipeline {
 public:
  explicit RingPipeline(const StageRules& rules)
      : rules_(rules), stages_(static_cast<std::size_t>(rules.stages)) {}

  StepTimes begin(const StagedTiming& t, SimTime now, const AwaitedStep* awaited) {
    ORRERY_CHECK(t.stages.size() == stages_.size(), "a timing for every stage");
    StepTimes s;
    s.schedule_begin = now;
    s.schedule_end = now + SimDuration(t.host.schedule);
    SimTime arrives, told;  // from the stage before: on its device, and sent
    SimTime result = awaited == nullptr ? SimTime(0) : result_of(*awaited);
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const StageTiming& w = t.stages[i];
      Stage& stage = stages_[i];
      SimTime met = s.schedule_end;
      if (i > 0 && rules_.tells_first) {
        told = later(stage.free, told + rules_.message);
        met = told + SimDuration(t.host.schedule);
      } else if (i > 0) {
        met = later(stage.free + SimDuration(t.host.schedule), told + rules_.message);
      }
      const SimTime before = stage.device_free, launch = met + SimDuration(t.host.prepare);
      const SimTime launched = launch + SimDuration(w.launch);
      SimTime runs = later(stage.sent, launch + SimDuration(w.first_kernel));
      runs = later(runs, stage.device_free + SimDuration(t.host.step_gap));
      if (i == 0) {
        s.launch_begin = launch;
        s.device_begin = later(stage.device_free, launch);
      } else {
        const SimTime from = rules_.tells_first ? later(before, launch) : met;
        const SimTime received = later(arrives, from) + SimDuration(w.handoff);
        stages_[i - 1].sent = received;
        runs = later(runs, received);
      }
      stage.device_free = later(runs + SimDuration(w.busy), launched + SimDuration(w.last_kernel));
      arrives = stage.device_free;
      SimTime done = rules_.tells_first ? later(launched, before) : launched;
      stage.free = done;
      if (awaited != nullptr) {
        done = later(done, result) + SimDuration(awaited->timing.update);
        result = result + SimDuration(t.host.schedule + t.host.prepare + w.launch) + rules_.message;
      }
      if (i > 0) stage.free = done + SimDuration(t.host.gap);
      if (!rules_.tells_first) told = done;
      if (i == 0 && rules_.tells_first) told = s.schedule_end;
      s.launch_end = launched;
    }
    s.device_end = arrives;
    awaited_ = awaited != nullptr;
    return s;
  }

  // Processes the outputs of the oldest open step.
  void update(const StepTiming& t, StepTimes& s) {
    s.update_begin = later(result_of({t, s}), core_free());
    s.update_end = s.update_begin + SimDuration(t.update);
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      if (i > 0 && awaited_) continue;  // counted when the step behind it was begun
      stages_[i].free = later(stages_[i].free, s.update_begin) + SimDuration(t.update + t.gap);
    }
    awaited_ = false;
  }

  SimTime core_free() const { return stages_.front().free; }
  SimTime core_free_after(const StepTiming& t, const StepTimes& s) const {
    return later(result_of({t, s}), core_free()) + SimDuration(t.update + t.gap);
  }

 private:
  struct Stage {
    SimTime free, device_free;
    SimTime sent;  // the next stage has what this one sent last
  };
  SimTime result_of(const AwaitedStep& a) const {
    return a.times.device_end + rules_.tokens_back + SimDuration(a.timing.copy);
  }

  StageRules rules_;
  std::vector<Stage> stages_;
  bool awaited_ = false;  // the step begun last waited for the oldest one's result
};

// Either of the two, by the rules.
class StageChain {
 public:
  explicit StageChain(const StageRules& rules) : line_(rules), ring_(rules), is_ring_(rules.ring) {}

  StepTimes begin(const StagedTiming& t, SimTime now, const AwaitedStep* awaited = nullptr) {
    return is_ring_ ? ring_.begin(t, now, awaited) : line_.begin(t, now);
  }
  StepTimes begin_empty(const StepTiming& host, SimTime now, bool fills) {
    ORRERY_CHECK(!is_ring_, "a ring passes over who has nothing to run");
    return line_.begin_empty(host, now, fills);
  }
  void update(const StepTiming& t, StepTimes& s) { is_ring_ ? ring_.update(t, s) : line_.update(t, s); }
  SimTime core_free() const { return is_ring_ ? ring_.core_free() : line_.core_free(); }
  SimTime core_free_after(const StepTiming& t, const StepTimes& s) const {
    return is_ring_ ? ring_.core_free_after(t, s) : line_.core_free_after(t, s);
  }

 private:
  StagedPipeline line_;
  RingPipeline ring_;
  bool is_ring_;
};

}  // namespace orrery
