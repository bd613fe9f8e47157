// What a run's GPUs drew: docs/energy.md. Boards of GPUs only; hosts, switches and cooling are not in it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "costmodel/energy.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/costed/scenario.h"
#include "sim/results.h"

namespace orrery {

struct EnergyResult {
  std::int64_t gpus = 0;
  double span_s = 0;                         // from the first arrival to the last end
  Joules joules;                             // of all GPUs over it
  double idle_joules = 0, idle_share = 0;    // of that while nothing ran; of the GPUs' time
  double watts_per_gpu = 0, busy_watts = 0;  // means: over the span, and while something ran
  Joules per_token, per_request;             // of the requests that are measured; 0: none was answered
  std::vector<std::pair<std::string, double>> by_class;  // joules while it ran, the largest first
  std::vector<std::string> assumed;                      // parts whose figures nobody measured
};

// Given to a run (RunOptions::energy); then asked.
class EnergyMeter {
 public:
  // Errors: a part without figures; what is not followed (stages, images, GPUs that come and go).
  static Result<EnergyMeter> create(const Scenario& scenario);
  void add(std::size_t pool, const StepPricer& pricer, const CostModelExecutor::Usage& usage);
  EnergyResult result(const RunResult& run) const;

 private:
  struct Pool {
    EnergyProfile profile;
    std::int64_t gpus = 1, instances = 1;
    double busy_s = 0;  // of all its GPUs
    Joules joules;
  };
  std::vector<Pool> pools_;
  std::vector<std::pair<std::string, double>> by_class_;
};

}  // namespace orrery
