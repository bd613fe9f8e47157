// One simulation of a scenario: clock that jumps, executor that asks the cost model, inbox that replays.
#pragma once

#include <functional>

#include "base/result.h"
#include "sim/costed/scenario.h"
#include "sim/inbox.h"
#include "sim/results.h"

namespace orrery {

class EnergyMeter;
class ExpertChoiceLog;
struct SimulationSetup;

// Factor by factor.
PriceScales product(const PriceScales& a, const PriceScales& b);

struct RunOptions {
  RecordSink* sink = nullptr;
  RunObserver* observer = nullptr;
  bool per_request_itl = false;
  bool stretches = true;             // false: single steps; the same digest
  PriceScales scales;                // multiplied with the scenario's what-if factors
  double rate_factor = 1.0;          // plays the workload so many times faster (find-rate)
  std::uint64_t limit_requests = 0;  // 0 = the scenario's own limit
  std::function<bool(std::uint64_t)> keep_going = {};
  EnergyMeter* energy = nullptr;       // asks what its GPUs drew; of this scenario
  ExpertChoiceLog* choices = nullptr;  // where experts are drawn
  // Who wants something, instead of the workload, which need not be there then. `input_delay`: from the
  // client to the nearest engine's input queue.
  std::function<std::unique_ptr<Inbox>(SimDuration input_delay, OutputLengths& oracle)> make_inbox = {};
  // The last word on the seams: it may wrap or replace them. What it puts there outlives the run.
  std::function<void(SimulationSetup& setup)> arrange = {};
};

Result<RunResult> run_scenario(const Scenario& scenario, const RunOptions& options = {});

}  // namespace orrery
