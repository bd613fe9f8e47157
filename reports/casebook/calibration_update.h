// A profile corrected by what an engine's steps took, and tried on steps that the correction has not seen.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "reports/casebook/measured_run.h"
#include "reports/casebook/step_fit.h"

namespace orrery {

struct CalibrationUpdate {
  StepFit fit;                     // of the first two thirds of each load's steps
  std::vector<FitError> held_out;  // of the last third, by kind: before, and with what was kept of the fit
  std::size_t fitted_steps = 0, held_out_steps = 0;
  bool host = false, operators = false;  // what was kept: each only if it makes the held-out steps better
  std::string engine_yaml;               // a profile over the one that the run was predicted with
};

// `name`: of the new profile. Errors: as fit_steps; no improvement of the held-out steps (check failed, with
// the figures).
Result<CalibrationUpdate> update_calibration(const MeasuredRun& run, const InstanceSpec& spec,
                                             const std::string& name, const std::string& source);

Json calibration_update_json(const CalibrationUpdate& update);
std::string calibration_update_text(const CalibrationUpdate& update);

}  // namespace orrery
