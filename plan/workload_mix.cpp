#include "plan/workload_mix.h"

#include <algorithm>

namespace orrery {

double over_workloads(const PlanSpace& space, const std::vector<double>& objectives) {
  if (space.over == OverWorkloads::worst) return *std::max_element(objectives.begin(), objectives.end());
  double sum = 0;
  for (std::size_t w = 0; w < objectives.size(); ++w) sum += space.workloads[w].weight * objectives[w];
  return sum;
}

PlanScore combined(const PlanSpace& space, std::vector<PlanScore> each) {
  PlanScore out = each.front();
  out.blocks.clear();
  out.fewer.clear();
  constexpr double PlanScore::*means[] = {&PlanScore::mean_e2e_ms,    &PlanScore::output_tokens_per_s,
                                          &PlanScore::requests_per_s, &PlanScore::usd_per_million,
                                          &PlanScore::met_per_s,      &PlanScore::joules_per_token,
                                          &PlanScore::watts_per_gpu};
  for (const auto field : means) {
    out.*field = 0;
    for (std::size_t w = 0; w < each.size(); ++w) out.*field += space.workloads[w].weight * (each[w].*field);
  }
  std::vector<double> objectives;
  for (const PlanScore& one : each) {
    objectives.push_back(one.objective);
    out.has_slo |= one.has_slo;
    out.meets &= one.meets;
    out.saturated |= one.saturated;
    out.cut |= one.cut;
    out.attainment = std::min(out.attainment, one.attainment);
    out.kv_peak = std::max(out.kv_peak, one.kv_peak);
    out.ttft_ms = std::max(out.ttft_ms, one.ttft_ms);
    out.tpot_ms = std::max(out.tpot_ms, one.tpot_ms);
    // Who answers nothing under one workload is no deployment (better()).
    if (one.requests_per_s == 0) out.requests_per_s = 0;
    if (out.refused.empty()) out.refused = one.refused;
  }
  out.objective = over_workloads(space, objectives);
  out.each = std::move(each);
  return out;
}

ObjectiveBound combined_bound(const PlanSpace& space, const std::vector<LoadFacts>& loads,
                              const std::vector<GraphBound>& graphs, std::int64_t sequences) {
  std::int64_t most = 1;
  for (std::size_t w = 0; w < loads.size(); ++w) {
    const ObjectiveBound one = bound_objective(space, loads[w], graphs[w], sequences);
    if (!one.known) return {};
    most = std::max(most, one.instances);
  }
  ObjectiveBound out;
  std::vector<double> objectives;
  for (std::size_t w = 0; w < loads.size(); ++w) {
    out = bound_objective(space, loads[w], graphs[w], sequences, most);
    objectives.push_back(out.objective);
  }
  out.objective = over_workloads(space, objectives);
  return out;
}

std::uint64_t share_of(const WorkloadRequests& all, std::size_t workload, std::uint64_t requests) {
  std::uint64_t sum = 0;
  for (const SharedRequests& one : all) sum += one->size();
  return sum == 0 ? 0 : all[workload]->size() * requests / sum;
}

}  // namespace orrery
