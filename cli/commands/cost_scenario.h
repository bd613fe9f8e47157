// The part of a scenario that a step's price depends on: its deployment. Workload, SLO and seed may stand in
// the file and are not read here.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/step_pricer.h"

namespace orrery {

struct CostScenario {
  std::string file;
  InstanceSpec instance;
  std::int64_t replicas = 1;
};

Result<CostScenario> load_cost_scenario(const std::string& path, const std::vector<std::string>& overrides);

}  // namespace orrery
