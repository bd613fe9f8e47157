// The recurrence of costmodel/pipeline.h for an instance whose layers are spread over pipeline stages, each
// with a launcher (worker process) and a device of its own. Rules: vLLM 0.24, v1/worker/gpu_worker.py,
// v1/worker/gpu/pp_utils.py, v1/engine/core.py.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "costmodel/pipeline.h"

namespace orrery {

// Durations of one step on one stage, nanoseconds, as in StepTiming.
struct StageTiming {
  std::int64_t launch = 0, first_kernel = 0, busy = 0, last_kernel = 0;
  std::int64_t handoff = 0;  // of hidden states from the stage before; 0 for the first
};

struct StagedTiming {
  StepTiming host;  // schedule, prepare, step_gap, copy, update, gap; `busy` and `launch` are not read
  std::vector<StageTiming> stages;
  bool samples = false;  // some sequence gets a token
  std::int64_t total() const {
    std::int64_t sum = 0;
    for (const StageTiming& s : stages) sum += s.busy + s.handoff;
    return sum;
  }
};

struct StageRules {
  std::int32_t stages = 1;
  std::int32_t cadence = 0;  // token_cadence(): the first stage of step n waits for the tokens of n − cadence
  SimDuration message;       // between launchers: what is to be handed off
  SimDuration tokens_back;   // the last stage's end → sampled tokens on the first stage's device
  SimDuration empty_wait;    // the core sleeps after a pass that ran nothing
  bool ring = false;         // costmodel/ring_pipeline.h instead
  bool tells_first = false;  // there: a stage passes on what is to run before it launches (TensorRT-LLM)
};

// For step n and stage s, with L0, L1, D of pipeline.h for each stage and X(s) the end of its hand-off:
//   L0(0) = max(S + schedule + prepare, launcher 0 free)       L1(s) = L0(s) + launch(s)
//   L0(s) = max(S + schedule + prepare, launcher s free, L1(s−1)) + message; launcher s−1 is free then too,
//           because its message waits for the receiver (gloo's sends do)
//   X(s)  = max(D(n, s−1), D(n−1, s), L0(s)) + handoff(s)      receiving waits for what its stream had before
//   K(0)  = max(D(n−1, 0) + step_gap, L0 + first_kernel, X(n−1, 1), tokens of step n − cadence)
//   K(s)  = max(X(s), L0(s) + first_kernel, X(n−1, s+1))       a stage goes on when what it sent was taken
//   D(s)  = max(K(s) + busy(s), L1(s) + last_kernel(s))
//   U     = max(D(last) + copy, core free) … + update
// That every send waits for its receiver is NCCL's way with large messages; small ones it buffers.
class StagedPipeline {
 public:
  explicit StagedPipeline(const StageRules& rules)
      : rules_(rules), stages_(static_cast<std::size_t>(rules.stages)),
        tokens_(static_cast<std::size_t>(rules.cadence)) {}

  StepTimes begin(const StagedTiming& t, SimTime now) {
    ORRERY_CHECK(t.stages.size() == stages_.size(), "a timing for every stage");
    StepTimes s;
    s.schedule_begin = now;
    s.schedule_end = core_free_ = now + SimDuration(t.host.schedule);
    const SimTime told = s.schedule_end + SimDuration(t.host.prepare);
    SimTime arrives;  // from the stage before: on its device, and known to this one's launcher
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const StageTiming& w = t.stages[i];
      Stage& stage = stages_[i];
      SimTime launch = later(told, stage.launcher_free);
      if (i > 0) {
        SimTime& sender = stages_[i - 1].launcher_free;
        launch = sender = later(sender, launch) + rules_.message;
      }
      SimTime runs = later(stage.sent, launch + SimDuration(w.first_kernel));
      if (i == 0) {
        s.launch_begin = launch;
        s.device_begin = later(stage.device_free, launch);
        runs = later(runs, stage.device_free + SimDuration(t.host.step_gap));
        if (rules_.cadence > 0) runs = later(runs, tokens_[slot()]);
      } else {
        const SimTime received = later(arrives, later(stage.device_free, launch)) + SimDuration(w.handoff);
        stages_[i - 1].sent = received;
        runs = later(runs, received);
      }
      stage.launcher_free = launch + SimDuration(w.launch);
      stage.device_free = later(runs + SimDuration(w.busy), stage.launcher_free + SimDuration(w.last_kernel));
      arrives = stage.device_free;
    }
    s.launch_end = stages_.back().launcher_free;
    s.device_end = arrives;
    output_ready_ = later(output_ready_, s.device_end + SimDuration(t.host.copy));
    note_tokens(t.samples ? s.device_end + rules_.tokens_back : SimTime(0));
    return s;
  }

  // A step without tokens: it takes a place in flight, and its result comes behind those before it. The core
  // sleeps when its pass is over: now, or (`fills`: no place is left) after the update that follows.
  StepTimes begin_empty(const StepTiming& host, SimTime now, bool fills) {
    StepTimes s;
    s.schedule_begin = now;
    s.schedule_end = core_free_ = now + SimDuration(host.schedule);
    const SimTime told = s.schedule_end + SimDuration(host.prepare);
    for (Stage& stage : stages_) stage.launcher_free = later(stage.launcher_free, told);
    s.launch_begin = s.launch_end = stages_.back().launcher_free;
    output_ready_ = later(output_ready_, s.launch_end);
    s.device_begin = s.device_end = output_ready_;
    note_tokens(SimTime(0));
    sleeps_ = fills;
    if (!fills) core_free_ = core_free_ + rules_.empty_wait;
    return s;
  }

  // Processes the outputs of the oldest open step. An empty one's timing has no copy.
  void update(const StepTiming& t, StepTimes& s) {
    s.update_begin = later(s.device_end + SimDuration(t.copy), core_free_);
    s.update_end = s.update_begin + SimDuration(t.update);
    core_free_ = s.update_end + SimDuration(t.gap);
    if (sleeps_) core_free_ = core_free_ + rules_.empty_wait;
    sleeps_ = false;
  }

  SimTime core_free() const { return core_free_; }
  // core_free() after update(), without it.
  SimTime core_free_after(const StepTiming& t, const StepTimes& s) const {
    const SimTime end = later(s.device_end + SimDuration(t.copy), core_free_) + SimDuration(t.update + t.gap);
    return sleeps_ ? end + rules_.empty_wait : end;
  }

 private:
  struct Stage {
    SimTime launcher_free, device_free;
    SimTime sent;  // the next stage has what this one sent last
  };
  std::size_t slot() const { return static_cast<std::size_t>(step_) % tokens_.size(); }
  void note_tokens(SimTime at) {
    if (!tokens_.empty()) tokens_[slot()] = at;
    ++step_;
  }

  StageRules rules_;
  std::vector<Stage> stages_;
  std::vector<SimTime> tokens_;  // of the last `cadence` steps, by step modulo that: when the first stage has
                                 // them
  std::int64_t step_ = 0;
  SimTime core_free_, output_ready_;
  bool sleeps_ = false;
};

}  // namespace orrery
