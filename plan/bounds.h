// What no schedule can beat, from the cost model alone.
#pragma once

#include <string>
#include <vector>

#include "sim/costed/scenario.h"
#include "workloads/request_source.h"

namespace orrery {

// Why the SLO cannot be met however few requests there are; "" when it may be. A request's TPOT is at least
// the device time of a step that decodes it alone with nothing but its prompt behind it, and its TTFT that of
// its prompt alone (where no prefix can be found in a cache). Both hold with a tenth of room, for measured
// tables are not monotone to the last per cent.
std::string beyond_slo(const Scenario& scenario, const std::vector<TraceRequest>& requests);

}  // namespace orrery
