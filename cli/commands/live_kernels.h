// `orrery live` with the executor of real kernels.
#pragma once

#include <string>

#include "cli/command.h"
#include "sim/costed/scenario.h"

namespace orrery {

struct LiveKernelOptions {
  bool waits = true, emulate_host = false;
  bool own_all_reduce = false;  // instead of NCCL's, of a plan over two GPUs
  std::int64_t profile_steps = 0;
  bool update_calibration = false;
  std::string out, tape, intervals = "auto";
};
Result<int> live_on_kernels(const LiveKernelOptions& options, const Scenario& scenario,
                            const CommandContext& context);

}  // namespace orrery
