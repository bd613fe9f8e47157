// Inside cli/ only: `--energy` of simulate and cost.
#pragma once

#include <string>

#include "base/json.h"
#include "costmodel/step_pricer.h"
#include "sim/costed/energy.h"

namespace orrery {

Json energy_json(const EnergyResult& energy);
std::string energy_text(const EnergyResult& energy);

// Of one step on one GPU, while its kernels run.
struct StepEnergy {
  Joules joules;
  double watts = 0;
  bool assumed = false;  // what the part draws
};
StepEnergy step_energy(const EnergyProfile& profile, const StepBreakdown& step);
Json step_energy_json(const StepEnergy& energy);
std::string step_energy_text(const StepEnergy& energy);

}  // namespace orrery
