// Logged steps beside their prices, in microseconds: what fits to a step log look at (step_terms.h).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/step_pricer.h"
#include "reports/casebook/measured_run.h"

namespace orrery {

struct StepSample {
  enum class Mode : std::uint8_t { full, piecewise, none };
  std::size_t experiment = 0;
  std::size_t part = 0;  // of the log: an experiment, or a stretch of a long one; what fits leave out as a
                         // whole
  double schedule = 0, handover = 0, launch = 0, update = 0, device = 0;  // logged
  double running = 0, admitted = 0, sequences = 0;
  Mode mode = Mode::full;
  double graph = 0, excess = 0;                // launch by the profile: `launch_graph`, and what is beyond it
  double busy = 0;                             // device, by the profile
  double launches = 0;                         // kernels of a step that is launched one by one
  std::array<double, op_class_count> parts{};  // of `busy`, by operator class
  bool prompts = false, decodes = false;
  bool waits = false;  // V1 runner beside drafts: launching waits for the step before (gpu_model_runner.py,
                       // deferred_state_corrections_fn)
  bool clear = false;  // the device was done with the step before, or nearly, when launching began
  // The host ran at its own pace. Beside a device that is 300 ms behind, launching takes 80 ms instead of 18:
  // a stream holds about a thousand launches, and then the host waits. Chosen by what was priced, not by how
  // long the launch took: a choice of launches by their length would be a choice of slow ones.
  bool unblocked() const;
  bool replayed() const { return mode == Mode::full && launch < 0.9 * device && !waits; }
  bool beside() const { return prompts && decodes; }
  // The device ran at its own pace.
  bool on_time() const { return (waits ? graph + excess : launch) < 0.8 * device; }
};

// One standard deviation of log(host time) among hosts, by the profile.
double host_doubt(const InstanceSpec& spec);

// Steps whose batch and times are logged. `leave_out`: experiments by name. Errors: a log without times;
// fewer than `least_steps` steps that can be used.
constexpr std::size_t least_steps = 8;
Result<std::vector<StepSample>> step_samples(const MeasuredRun& run, const InstanceSpec& spec,
                                             const std::vector<std::string>& leave_out);

}  // namespace orrery
