// How good a deployment is, and which of two is better.
#pragma once

#include <string>

#include "plan/blocks.h"
#include "plan/candidates.h"
#include "sim/costed/energy.h"
#include "sim/results.h"

namespace orrery {

// What a run says of a deployment; everything that outputs and rankings need.
struct PlanScore {
  std::int64_t replicas = 1, gpus = 0;
  bool has_slo = false, meets = false;
  double attainment = 0;            // share of requests that met every limit; without one: that were answered
  double objective = 0;             // smaller is better, whatever is searched for
  double mean_e2e_ms = 0;           // between equal objectives the smaller one wins
  double ttft_ms = 0, tpot_ms = 0;  // at the SLO's percentile
  double output_tokens_per_s = 0, requests_per_s = 0;
  double usd_per_hour = 0, usd_per_million = 0;  // 0: a part has no price
  double kv_peak = 0;                            // share of the KV blocks, of the fullest instance
  bool saturated = false;
  double rate_factor = 1;  // so many times faster than the workload as it is (objective `rate`)
  double joules_per_token = 0, watts_per_gpu = 0;  // of the objective `energy`
  double met_per_s = 0;                            // requests that met every limit
  // Of the run itself, and of the one with an instance less that the search tried and that misses the SLO.
  RequestBlocks blocks, fewer;
  bool cut = false;  // stopped when it could no longer meet the SLO: `attainment` is the most it could have
                     // had
  std::vector<PlanScore> each;  // several workloads: of each of them (workload_mix.h)
  std::string refused;          // why it could not be run after all; then nothing else here counts
};

// Shows the objective as a person wants it: "4 GPUs", "0.31 USD/Mtok", "1,234 tok/s/GPU", "812 ms".
std::string objective_text(PlanObjective objective, const PlanScore& score);

// As outputs have it: what is to be large is positive there.
double shown_objective(const PlanScore& score);

// `energy`: what the run drew, where the objective asks for it.
PlanScore score_of(const PlanSpace& space, const Scenario& scenario, const RunResult& run,
                   const EnergyResult* energy = nullptr);

// Who meets the SLO comes first; then the objective, then the mean end-to-end latency. Of those who miss it
// the larger attainment comes first. Strict: false for equals.
bool better(const PlanScore& a, const PlanScore& b);

}  // namespace orrery
