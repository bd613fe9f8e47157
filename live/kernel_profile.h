// Single launches of steps beside their prices: which operators are off, by what, and the corrections of the
// tables that follow (docs/live.md, "Launch by launch").
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "costmodel/step_pricer.h"
#include "live/kernel_executor.h"

namespace orrery {

// Which of a rehearsal's steps are timed launch by launch: of each kind and size (graph of decodes, octave of
// tokens) the first, second, fourth, eighth …, until there are as many as were asked for.
class ProfileChoice {
 public:
  explicit ProfileChoice(std::int64_t steps) : left_(steps) {}
  bool takes(const KernelStep& step);

 private:
  std::int64_t left_;
  std::map<std::pair<int, std::int64_t>, std::uint64_t> met_;
};

// One use of an operator in one step: all its launches. Measured is without what the clocks take, and scaled
// to what the step took as it came, less the gaps between kernels that are launched one by one, unless it
// waited for the host.
struct LaunchResidual {
  std::string use;
  OpClass op_class = OpClass::elementwise;
  std::int64_t launches = 0;  // 0: priced, not launched under this name
  double measured_ns = 0, priced_ns = 0;
  // Under which name the tables' corrections (corrections.csv) know it, and where on their axis; an empty
  // name: they do not.
  std::string corrected_as;
  double at = 0;
};
std::vector<LaunchResidual> launch_residuals(const ProfiledStep& step, const StepPricer& pricer);

// By kind of step: {steps, own_ms, launch_ms, graph_ms, timed_ms, priced_ms, kernels: [{use, class, launches,
// measured_us, priced_us, error_percent, share_percent}]}; a kernel's figures are of a step, in the mean.
Json kernel_profile_json(const std::vector<ProfiledStep>& steps, const StepPricer& pricer);
std::string chunk_lengths(const KernelStep& step);  // "512@0 100@200": new tokens behind a context
std::string kernel_profile_csv(const std::vector<ProfiledStep>& steps, const StepPricer& pricer);
std::string kernel_profile_text(const Json& profile);

// Points of corrections.csv: operator (with format), axis, factor.
using Corrections = std::map<std::string, std::vector<std::pair<double, double>>>;
// What the tables need over the corrections that they have, so that profiled steps come out right: up to 64
// by sizes of captured graphs, above by halves of an octave.
Corrections fitted_corrections(const std::vector<ProfiledStep>& steps, const StepPricer& pricer,
                               const KernelSet& set, const Corrections& before);
std::string corrections_csv(const Corrections& corrections);

}  // namespace orrery
