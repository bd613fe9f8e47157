// Host costs and operator factors of an engine from its own step log: how a user makes a profile right for an
// engine, a host and a part (docs/from_steps.md).
//
// Each host term comes from the logged interval that it is part of; terms that only ever occur together in
// the log keep the profile's proportions and are scaled together, and what the log does not contain is kept
// and said so. Device times give one factor per operator class: relative least squares of the logged device
// time over the classes' predicted times, on steps whose launches did not hold the device up. A figure is
// taken only where the log says more than noise: a host term whose level differs from the profile's by more
// than loads of one host do (host_level.h), factors of operators if they predict parts of the log that they
// have not seen better than the profile does, beyond what chance would do.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/step_pricer.h"
#include "reports/casebook/host_level.h"
#include "reports/casebook/measured_run.h"

namespace orrery {

struct FittedTerm {
  std::string key;    // of the engine profile's `host`, or an operator class
  double before = 0;  // microseconds; operator classes and launch_jitter_median: factor
  double value = 0;
  double deviation = 0;  // jackknife over experiments, or over the parts of one
  bool fitted = false;   // false: kept, `note` says why
  std::string note;      // "with launch_experts: the log cannot tell them apart"
  const char* unit = "us";
};

// Median absolute relative error of what was left out while fitting, over all steps of a kind.
struct FitError {
  std::string kind;  // "launch, graph" | "launch, piecewise" | "launch, eager" | "device, decode" | "device,
                     // prompts" | "schedule" | "handover" | "update"
  std::size_t steps = 0;
  double before = 0, after = 0;  // percent
};

struct StepFit {
  std::vector<FittedTerm> host, operators;
  std::vector<FitError> left_out;  // each experiment (or part of one) predicted from the others
  std::size_t steps = 0, experiments = 0;
  std::size_t parts = 0;  // that a log of one experiment was cut into, to have something to leave out; or 0
  double condition = 0;   // of the operator classes (robust_fit.h)
  std::vector<HostLevel> levels;      // what the log says of each kind of host work
  std::vector<std::string> warnings;  // what a user has to know before using it
};

// Errors: a log without times; no step that can be used. `spec` is what ran: part, model, plan and the engine
// profile that the result is relative to. `leave_out`: experiments that are not looked at, by name.
Result<StepFit> fit_steps(const MeasuredRun& run, const InstanceSpec& spec,
                          const std::vector<std::string>& leave_out = {});

// How far two engines' prices are from the steps of a log, by kind: `fit_steps`'s own errors, for steps that
// neither may have seen. Errors: as there.
Result<std::vector<FitError>> step_errors(const MeasuredRun& run, const InstanceSpec& before,
                                          const InstanceSpec& after);

// An engine profile over `spec`'s (costmodel/engine_profile.h) that holds the fitted figures with their
// source.
std::string overlay_yaml(const StepFit& fit, const InstanceSpec& spec, const std::string& name,
                         const std::string& source);
std::string step_fit_text(const StepFit& fit);

}  // namespace orrery
