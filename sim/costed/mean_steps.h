// What an executor's steps of each kind come to: the mean step, taken apart. Every step by itself would cost
// more than the simulation.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "costmodel/encoder_pricer.h"
#include "costmodel/kernel_set.h"
#include "sim/costed/cost_model_executor.h"

namespace orrery {

struct MeanStep {
  StepBreakdown step;
  std::int64_t ns = 0;  // device time of all steps of its kind
  double times() const { return static_cast<double>(ns) / static_cast<double>(step.timing.busy); }
};
std::vector<MeanStep> mean_steps(const StepPricer& pricer, const CostModelExecutor::Usage& usage);

// Which rung of evidence the device time of a pool stands on, added to `ns`. Returns the time.
using RungTimes = std::array<double, static_cast<std::size_t>(Rung::count)>;
double add_price_sources(const StepPricer& pricer, const EncoderPricer* encoder,
                         const CostModelExecutor::Usage& usage, RungTimes& ns);
std::vector<std::pair<std::string, double>> shares_of(const RungTimes& ns, double total);

}  // namespace orrery
