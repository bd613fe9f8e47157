// examples/qwen3-8b-h200.yaml with what a test says otherwise, and its run.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
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

// The same in miniature, with another deployment: 300 requests at twelve times the rate.
inline orrery::Result<orrery::Scenario> small_example(const std::string& deployment,
                                                      const std::vector<std::string>& more = {}) {
  orrery::ScenarioOptions options;
  options.overrides = {"deployment=" + deployment, "workload.limit={requests: 300}",
                       "workload.time_scale=12"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  return orrery::load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

// A pool of it, or the whole deployment.
inline std::string qwen3_8b_part(const std::string& keys) {
  return "{model: qwen3-8b, engine: vllm-0.24, " + keys + "}";
}

// What its scenario.resolved.yaml means when it is read again.
inline orrery::Result<orrery::Scenario> read_again(const orrery::Scenario& s) {
  const std::string file =
      std::filesystem::temp_directory_path() / ("orrery-read_again." + std::to_string(::getpid()) + ".yaml");
  std::ofstream(file) << s.resolved_yaml();
  auto again = orrery::load_scenario(file, {});
  std::remove(file.c_str());
  return again;
}

inline orrery::RunResult run(const orrery::Scenario& s, bool stretches = true) {
  orrery::RunOptions options;
  options.stretches = stretches;
  return orrery::run_scenario(s, options).value();
}
