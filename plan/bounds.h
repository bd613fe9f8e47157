// What no schedule can beat, from the cost model alone.
#pragma once

#include <string>
#include <vector>

#include "costmodel/step_pricer.h"
#include "sim/costed/scenario.h"
#include "workloads/request_source.h"

namespace orrery {

// Why the SLO cannot be met however few requests there are; "" when it may be. A request's TPOT is at least
// the device time of a step that decodes with nothing but its prompt behind it, and its TTFT that of its
// prompt alone (where no prefix can be found in a cache). Both leave room: measured tables are not monotone
// to the last per cent, and a first token may come a step late (bounds.cpp).
// `pricer`: of the first pool, with the scenario's own scales.
std::string beyond_slo(const Scenario& scenario, const std::vector<TraceRequest>& requests,
                       const StepPricer& pricer);

// Whether bounds know all that runs: not where pools, stages, ranks, drafts or followed experts share it.
bool one_plain_pool(const Scenario& scenario);
bool prompts_can_hit(const std::vector<TraceRequest>& requests);  // in a cache of prefixes

}  // namespace orrery
