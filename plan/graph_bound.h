// What no schedule of a step graph can beat, whatever its budgets: device time that the load takes at least,
// and so how many instances it takes and what the objective comes to at best.
#pragma once

#include <optional>
#include <vector>

#include "costmodel/step_pricer.h"
#include "plan/space.h"
#include "sim/costed/scenario.h"
#include "workloads/request_source.h"

namespace orrery {

// The load, once for all candidates.
struct LoadFacts {
  std::vector<std::int32_t> prompts, outputs;  // of the requests that are measured
  double first_s = 0;                          // the first arrival of them
  double arrivals_s = 0;  // from there to the arrival of the last one that has to be answered; 0: a closed
                          // loop
  double deadline_s = 0;  // from there to when the last request that is in time ends; 0: none has to
  double output_tokens = 0;
  double share = 1;           // of the requests that have to be in time, or answered
  bool prompts_count = true;  // false: prefixes may be found in a cache
  bool cancels = false;       // clients leave, and their requests need not be computed
};
LoadFacts load_facts(const Scenario& any, const std::vector<TraceRequest>& requests);

// Everything of one instance of a graph; of several pools, of the whole deployment. Unknown (`known` false):
// faults, instances that come and go, clients that leave.
struct GraphBound {
  bool known = false;
  std::int64_t instances = 1;  // that the scenario has
  double gpus = 0, usd_per_hour = 0;
  double idle_w = 0;           // of its GPUs together, where the objective is energy
  double busy_s = 0;           // device time of the load
  double step_s = 0;           // of the shortest step
  double tokens = 0;           // output tokens that need steps
  double latency_ms = 0;       // mean end-to-end latency without any queue
  std::int64_t sequences = 0;  // of a step where its key is not varied
};
// `pricer`: of the first pool, with the scenario's own scales.
GraphBound bound_graph(const PlanSpace& space, const Scenario& scenario, const LoadFacts& load,
                       const StepPricer& pricer);
// Of two that were read, what holds for both.
GraphBound weaker(const GraphBound& a, const GraphBound& b);

struct ObjectiveBound {
  std::int64_t instances = 1;  // no fewer meet the SLO
  double objective = 0;        // no less is reached by who meets it (smaller is better, PlanScore::objective)
  bool known = false;
};
// `sequences`: the most of a step; 0: the graph's. `least`: that so many instances are needed is known from
// elsewhere.
ObjectiveBound bound_objective(const PlanSpace& space, const LoadFacts& load, const GraphBound& graph,
                               std::int64_t sequences, std::int64_t least = 1);

// With more instances it could not be better than `limit`; without one: any number.
std::int64_t most_instances(const PlanSpace& space, const ObjectiveBound& bound, std::optional<double> limit);

}  // namespace orrery
