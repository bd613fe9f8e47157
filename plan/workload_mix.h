// Inside plan/ only: one score, and one bound, of a deployment that is run under several workloads.
#pragma once

#include <vector>

#include "plan/graph_bound.h"
#include "plan/objective.h"

namespace orrery {

// The objective of all: the mean by weight, or that of the worst. Meets the SLO who does under each; shares
// and limits are those of the worst, other figures means by weight. The parts stay in `PlanScore::each`.
PlanScore combined(const PlanSpace& space, std::vector<PlanScore> each);

// Objectives of all workloads as one.
double over_workloads(const PlanSpace& space, const std::vector<double>& objectives);

// What nobody is better than who meets the SLO under each: the instances that the most demanding workload
// takes, and the objective's bounds with so many. Unknown where one of them is.
ObjectiveBound combined_bound(const PlanSpace& space, const std::vector<LoadFacts>& loads,
                              const std::vector<GraphBound>& graphs, std::int64_t sequences);

// Of the first `requests` of all workloads together, how many are workload number `workload`'s.
std::uint64_t share_of(const WorkloadRequests& all, std::size_t workload, std::uint64_t requests);

}  // namespace orrery
