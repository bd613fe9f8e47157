// Scenarios of a prefill and a decode pool on one node of H200, from their keys alone.
#pragma once

#include <string>

#include "sim/costed/run.h"

namespace apart {

// `keys` of both pools, and more of each; `pd`: keys of the deployment.
inline orrery::Result<orrery::RunResult> run_pools(const std::string& keys, const std::string& prefill,
                                                   const std::string& decode, const std::string& pd = "") {
  const std::string both = "{hardware: h200, " + keys;
  orrery::ScenarioOptions options;
  options.overrides = {"deployment={topology: {preset: hopper-8}, " + pd + "pools: [" + both +
                           ", name: p, role: prefill" + prefill + "}, " + both + ", name: d, role: decode" +
                           decode + "}]}",
                       "workload={generator: {requests: 20, arrivals: {process: fixed, rate: 5}, input: "
                       "{distribution: fixed, value: 4000}, output: {distribution: fixed, value: 40}}}"};
  ORRERY_TRY(scenario,
             load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options));
  return run_scenario(scenario);
}

template <class Run>
std::string refusal(const orrery::Result<Run>& run) {
  return run.ok() ? "" : to_string(run.errors());
}

}  // namespace apart
