// Which deployments no other one beats on everything at once.
#pragma once

#include <vector>

#include "plan/search.h"

namespace orrery {

// Of those that were run on the whole workload and meet the SLO (where there is one): fewer GPUs, shorter
// mean end-to-end latency, more output tokens per second. By GPUs, then latency.
std::vector<PlanEntry> pareto_front(const PlanSearch& search);

}  // namespace orrery
