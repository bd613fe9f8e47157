// What a change gives end to end: two scenarios' workloads replayed, side by side.
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"
#include "sim/costed/scenario.h"
#include "sim/results.h"

namespace orrery {

struct ComparedRuns {
  RunResult a, b;
  std::int64_t gpus_a = 1, gpus_b = 1;
};

// Both runs, nominal. Errors: a scenario without a workload, and what running reports.
Result<ComparedRuns> run_both(const Scenario& a, const Scenario& b);

// A row per metric: A, B and B ÷ A; then device time by kind of step.
std::string run_comparison_table(const ComparedRuns& runs, const std::string& name_a,
                                 const std::string& name_b);
Json run_comparison_json(const ComparedRuns& runs);

}  // namespace orrery
