// examples/qwen3-8b-h200.yaml with what a test says otherwise, and its run.
#pragma once

#include <string>
#include <vector>

#include "sim/costed/run.h"

// Later overrides win.
inline orrery::Scenario example_at_four_times_its_rate(const std::vector<std::string>& overrides) {
  orrery::ScenarioOptions options;
  options.overrides = {"workload.time_scale=4"};
  options.overrides.insert(options.overrides.end(), overrides.begin(), overrides.end());
  return orrery::load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options)
      .value();
}

inline orrery::RunResult run(const orrery::Scenario& s, bool stretches = true) {
  orrery::RunOptions options;
  options.stretches = stretches;
  return orrery::run_scenario(s, options).value();
}
