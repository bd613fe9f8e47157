// What published figures say of our intervals. Perturbed runs hold the doubt about prices and host times;
// what other hosts, versions and clients do beside them is read off figures that nothing was fitted to: for
// each pool of them, by how much the ends must move for nine figures in ten to lie between (split conformal
// prediction; made by `orrery validate --fit-intervals` on one half of the cases,
// reports/casebook/interval_fit.h). No point prediction depends on it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "sim/costed/scenario.h"
#include "sim/ensemble/ensemble.h"

namespace orrery {

// "throughput" for all rates; else "duration_s", "tpot_ms", "ttft_ms", "itl_ms", "e2e_ms".
std::string quantity_of(const std::string& metric);
// "tensorrt-llm-1.2" → "tensorrt-llm", "vllm-v1-runner" → "vllm", "vllm-0.5-rocm" (V0) → "vllm-v0"; an engine
// of another name is its own family.
std::string engine_family(const std::string& profile);

// What a run's figures stand on. Part and engine are empty where its pools differ in them.
struct PriceEvidence {
  std::string part, engine;  // engine: the profile
  std::string rung;          // the one with the largest share of device time; of equal ones the less sure
};
using RungShares = std::vector<std::pair<std::string, double>>;
PriceEvidence evidence_of(const Scenario& scenario, const RungShares& price_sources);
std::string main_rung(const RungShares& price_sources);

// A pool of figures. The ends of an interval move by these logarithms: low · exp(−low), high · exp(high).
// Negative ones move them inwards: the figures are narrower on that side than the prices' doubt.
struct IntervalPool {
  std::string quantity, rung, part, engine;  // engine: the family; part and engine empty: all
  std::int64_t rows = 0, cases = 0;          // fitted on
  double low = 0, high = 0;
  std::string name() const;  // "tpot_ms, published, h100 tensorrt-llm"
};

struct IntervalCorrections {
  std::vector<IntervalPool> pools;

  // The narrowest pool that holds the evidence: rung with part and engine, rung, all. Of inter-token and
  // end-to-end latency, where they have none of their own, TPOT's. Null: there is none.
  // That Orrery logged an engine on a part itself exempts nothing: its logs say how device times of steps do,
  // and nothing of the hosts and clients of others.
  const IntervalPool* find(const std::string& metric, const PriceEvidence& evidence) const;
};

// Moves the ends; the prediction stays between them.
void correct_bounds(const IntervalPool& pool, double predicted, double& low, double& high);

// Every metric that has a pool; MetricInterval::correction says which.
void correct_intervals(Intervals& intervals, const IntervalCorrections& corrections,
                       const PriceEvidence& evidence);

Result<IntervalCorrections> load_interval_corrections(const std::string& path);
// Those of the data directory; none where its file lacks.
Result<IntervalCorrections> shipped_interval_corrections();
std::string interval_corrections_path();

}  // namespace orrery
