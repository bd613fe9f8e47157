#include "plan/objective.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/text.h"

namespace orrery {

namespace {

double at_percentile(const Distribution& d, double percentile) {
  if (d.count == 0 || d.curve.empty()) return 0;
  const auto index = static_cast<std::size_t>(std::lround(std::floor(percentile)));
  return static_cast<double>(d.curve[std::min(index, d.curve.size() - 1)]) * 1e-6;
}

}  // namespace

std::string objective_text(PlanObjective objective, const PlanScore& score) {
  const double shown = shown_objective(score);  // of several workloads the worst's may be it, not the mean
  switch (objective) {
    case PlanObjective::gpus: return std::to_string(score.gpus) + (score.gpus == 1 ? " GPU" : " GPUs");
    case PlanObjective::cost: return shown > 0 ? format_fixed(shown, 3) + " USD/Mtok" : "no answer";
    case PlanObjective::throughput: return format_fixed(shown, 1) + " tok/s/GPU";
    case PlanObjective::latency: return format_fixed(shown, 1) + " ms";
    case PlanObjective::goodput: return format_fixed(shown, 3) + " requests/s/GPU in time";
    case PlanObjective::energy: return format_fixed(shown, 3) + " J/token";
    case PlanObjective::rate: return format_fixed(shown, 3) + " requests/s/GPU";
  }
  return "";
}

double shown_objective(const PlanScore& score) { return std::abs(score.objective); }

PlanScore score_of(const PlanSpace& space, const Scenario& scenario, const RunResult& run,
                   const EnergyResult* energy) {
  PlanScore s;
  s.replicas = scenario.pool.replicas;
  s.gpus = scenario.gpus();
  const double all =
      static_cast<double>(run.completed + run.failed + run.rejected + run.timed_out + run.cancelled);
  s.has_slo = scenario.slo.given;
  if (all > 0) s.attainment = static_cast<double>(s.has_slo ? run.slo_met : run.completed) / all;
  double fullest = 0;
  for (const PoolResult& pool : run.pools) fullest = std::max(fullest, pool.peak_utilization);
  s.kv_peak = fullest;
  // A run in which nothing was answered is no deployment, whatever was asked of it.
  const bool served = run.completed > 0;
  s.meets = served && (s.has_slo ? s.attainment >= scenario.slo.percentile / 100
                                 : run.failed + run.rejected + run.timed_out == 0);
  s.mean_e2e_ms = run.e2e.count > 0 ? run.e2e.mean * 1e-6 : 0;
  s.ttft_ms = at_percentile(run.ttft, scenario.slo.given ? scenario.slo.percentile : 99);
  s.tpot_ms = at_percentile(run.tpot, scenario.slo.given ? scenario.slo.percentile : 99);
  const double span = (run.last_finish - run.measured_from).seconds();
  if (span > 0) {
    s.output_tokens_per_s = static_cast<double>(run.output_tokens) / span;
    s.requests_per_s = static_cast<double>(run.completed) / span;
    s.met_per_s = static_cast<double>(run.has_slo ? run.slo_met : run.completed) / span;
  }
  s.usd_per_hour = usd_per_hour(space, scenario);
  if (s.output_tokens_per_s > 0) s.usd_per_million = s.usd_per_hour / 3600 / s.output_tokens_per_s * 1e6;
  s.saturated = run.saturated;
  if (energy != nullptr) {
    s.joules_per_token = energy->per_token.nominal;
    s.watts_per_gpu = energy->watts_per_gpu;
  }
  switch (space.objective) {
    case PlanObjective::gpus: s.objective = static_cast<double>(s.gpus); break;
    case PlanObjective::cost: s.objective = s.usd_per_million; break;
    case PlanObjective::throughput: s.objective = -s.output_tokens_per_s / static_cast<double>(s.gpus); break;
    case PlanObjective::latency: s.objective = s.mean_e2e_ms; break;
    case PlanObjective::goodput: s.objective = -s.met_per_s / static_cast<double>(s.gpus); break;
    case PlanObjective::energy: s.objective = s.joules_per_token; break;
    case PlanObjective::rate: break;  // of many runs (rate_search.h)
  }
  return s;
}

bool better(const PlanScore& a, const PlanScore& b) {
  if (a.meets != b.meets) return a.meets;
  if (!a.meets && a.attainment != b.attainment) return a.attainment > b.attainment;
  // Who answers nothing has no latency and costs nothing.
  if ((a.requests_per_s > 0) != (b.requests_per_s > 0)) return a.requests_per_s > 0;
  if (a.objective != b.objective) return a.objective < b.objective;
  return a.mean_e2e_ms < b.mean_e2e_ms;
}

}  // namespace orrery
