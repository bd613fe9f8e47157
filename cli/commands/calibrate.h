// What the parts of `orrery calibrate` share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/command.h"
#include "kernels/device.h"

namespace orrery {

struct CalibrateOptions {
  int device = 0;
  std::vector<std::string> ops, models, leave_out;
  std::string budget, out = "out/calibration", tables, hardware, pack, from_steps, scenario, part, again;
  double child_timeout = 25;  // of a check's operator, in seconds; 0: all in this process
  std::size_t max_points = 0;
  bool resume = false, any_card = false, check = false, simulator = false, plan = false, between = false,
       tune = false, pairs = false;
  std::vector<std::string> export_to;  // with tune: format and folder
};

// The chosen device; errors (unavailable) say why there is none.
Result<std::unique_ptr<kernels::Device>> open_device(int index);

int run_kernel_checks(const CalibrateOptions& options, const CommandContext& context);
int run_calibration(const CalibrateOptions& options, const CommandContext& context);
int run_pairs(const CalibrateOptions& options);
int run_tuning(const CalibrateOptions& options, const CommandContext& context);
int print_plan(const CalibrateOptions& options);
int fit_from_steps(const CalibrateOptions& options, const CommandContext& context);
int pack_calibration(const CalibrateOptions& options, const CommandContext& context);

}  // namespace orrery
