// The measured engine runs that stand in reports/cases/engine_runs.yaml, each with the deployment that a
// prediction of it has.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "reports/casebook/measured_run.h"
#include "sim/costed/scenario.h"

namespace orrery {

// The profile that they are predicted with.
constexpr const char* own_engine = "vllm-0.24";

struct EngineRun {
  std::string name, folder;     // folder: as found
  std::string hardware, model;  // names of profiles
  std::string fitted;           // what of Orrery was fitted to it; "nothing" = held out
  bool from_shared = false;     // read from ../shared/truth, not from the copy in reports/cases
};
Result<std::vector<EngineRun>> list_engine_runs();

// The deployment of a run: hardware and model of the list, everything else as the engine was told; the KV
// pool is as large as the engine's. Errors: located in the list, or in engine.json.
Result<Scenario> scenario_of(const EngineRun& run, const MeasuredRun& measured);

}  // namespace orrery
