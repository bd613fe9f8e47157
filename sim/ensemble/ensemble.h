// Error bars: K runs of the same workload (common random numbers), each with its own draw of what is
// uncertain in the prices; the spread of a metric over the runs is its interval.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/costed/run.h"

namespace orrery {

struct MetricInterval {
  std::string name;                       // "ttft_ms.p50", …, as in summary.json
  double nominal = 0, low = 0, high = 0;  // in the unit that the name says
  // Where the ends were corrected (interval_corrections.h): by which pool, and where they were before.
  std::string correction = {};
  double prices_low = 0, prices_high = 0;
};

struct Intervals {
  std::vector<MetricInterval> metrics;
  // Of each metric what the perturbed runs found, in the order of their draws: run i of another scenario with
  // the same seed drew the same normals, so that ratios and differences can be taken run by run.
  std::vector<std::vector<double>> samples;
  int runs = 0;
  std::uint64_t requests = 0;  // over how many requests; less than the run's when the trace is long
  bool shortened = false;
  double capacity_deviations = 0;  // to either end of the KV cache's interval (capacity.h); 0: there is none
};

// One standard deviation of the logarithm of each factor that is uncertain.
struct PriceUncertainty {
  std::array<double, op_class_count> op{};
  double host = 0;
};
PriceUncertainty price_uncertainty(const StepPricer& pricer, const InstanceSpec& instance);

// Draw `run` of the perturbations: log-normal, median 1, stream named by (seed, perturbation, run).
PriceScales draw_scales(const PriceUncertainty& uncertainty, std::uint64_t seed, std::uint64_t run);

struct EnsembleOptions {
  int runs = 16;
  std::uint64_t limit_requests = 20000;
  int threads = 1;
  std::function<bool(std::uint64_t)> keep_going = {};
};

// Independent of the number of threads: each run's draws depend on its number, results are reduced in order.
Result<Intervals> estimate_intervals(const Scenario& scenario, const EnsembleOptions& options);

// The same over other metrics than metrics_of. `measure` makes one run with the options it is given and says
// what it found, the same metrics every time; it is called from several threads at once. With 0 runs only the
// nominal run is made, and low = nominal = high.
struct RunMetrics {
  std::vector<MetricInterval> metrics;
  std::uint64_t requests = 0;  // that ended, whichever way
};
using MeasureRun = std::function<Result<RunMetrics>(const RunOptions&)>;
Result<Intervals> estimate_intervals(const Scenario& scenario, const EnsembleOptions& options,
                                     const MeasureRun& measure);

// Sets low and high: 5 % and 95 % of the perturbed runs' values, nominal one included, read off by linear
// interpolation between sorted values.
void set_bounds(MetricInterval& metric, std::vector<double> values);

// The metrics that intervals are given for, of one run.
std::vector<MetricInterval> metrics_of(const RunResult& run);

}  // namespace orrery
