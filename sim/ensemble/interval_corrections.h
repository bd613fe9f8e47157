// What published figures say of our intervals. Perturbed runs hold the doubt about prices and host times;
// what other hosts, versions and clients do beside them is read off figures that nothing was fitted to (split
// conformal prediction; made by `orrery validate --fit-intervals` on one half of the cases,
// reports/casebook/interval_fit.h). *Regions* say how far off figures near this one were and how much they
// scatter; a *pool* of many figures says how many scatters nine in ten of them need. No point prediction
// depends on any of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/memory_doubt.h"
#include "sim/ensemble/ensemble.h"
#include "sim/ensemble/price_evidence.h"

namespace orrery {

// Of logarithms of measured ÷ predicted, drawn towards those of the wider regions around.
struct IntervalRegion {
  std::int64_t rows = 0, cases = 0;
  double centre = 0, spread = 0;
  // Of regions wider than a model: how much figures of a model that is not among them would scatter.
  double outside = 0;
};

// Even figures that agree scatter so much, and of a figure's doubt about prices (half the width of the
// interval of its perturbed runs, as a logarithm) so much adds to its region's spread.
constexpr double least_spread = 0.02;
constexpr double share_of_price_doubt = 0.3;

// Ends of a figure's interval, as logarithms of the prediction: centre − low · scatter, centre + high ·
// scatter.
struct IntervalPool {
  std::string quantity, rung, part, engine;  // engine: the family; part and engine empty: all
  std::int64_t rows = 0, cases = 0;          // fitted on
  double low = 0, high = 0;
  std::string name() const;  // "tpot_ms, published, h100 tensorrt-llm"
};

// Inter-token and end-to-end latency, of which there are few cases, are sums of the times of tokens: they
// share TPOT's pools, each with regions of its own.
std::string pool_quantity_of(const std::string& metric);

// How many standard deviations of the memory plan (costmodel/memory_doubt.h) nine in ten logged block counts
// lie within; without logs a normal distribution's.
struct CapacityPool {
  std::int64_t rows = 0, cases = 0;  // fitted on
  double deviations = normal_deviations;
};

struct IntervalCorrections {
  std::vector<IntervalPool> pools;
  CapacityPool capacity;
  // By quantity and region_path, joined by commas.
  std::map<std::string, IntervalRegion> regions;

  // The narrowest pool that holds the evidence: rung with part and engine, rung, all. Null: there is none.
  // That Orrery logged an engine on a part itself exempts nothing: its logs say how device times of steps do,
  // and nothing of the hosts and clients of others.
  const IntervalPool* find(const std::string& metric, const PriceEvidence& evidence) const;
  // The narrowest region that holds the evidence, of the metric's quantity, or the pool's where it has none;
  // one without spread where none does.
  IntervalRegion region(const IntervalPool& pool, const std::string& metric,
                        const PriceEvidence& evidence) const;

  // Whether a region is of the evidence's own model on its part and engine. Where none is, no centre says how
  // this model differs from others, and the region's `outside` counts as its scatter.
  bool knows_model(const IntervalPool& pool, const std::string& metric, const PriceEvidence& evidence) const;

  // Moves the ends, and says by which pool, and where no figure is of the model; the prediction stays between
  // them. Empty: as they were.
  std::string correct(const std::string& metric, const PriceEvidence& evidence, double predicted, double& low,
                      double& high) const;
};

double scatter_of(double region_spread, double low, double high);
// Sets the ends.
void correct_bounds(const IntervalPool& pool, double centre, double scatter, double predicted, double& low,
                    double& high);

// Every metric that has a pool; MetricInterval::correction says which.
void correct_intervals(Intervals& intervals, const IntervalCorrections& corrections,
                       const PriceEvidence& evidence);

Result<IntervalCorrections> load_interval_corrections(const std::string& path);
// Those of the data directory; none where its file lacks.
Result<IntervalCorrections> shipped_interval_corrections();
std::string interval_corrections_path();

}  // namespace orrery
