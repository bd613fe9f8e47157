// A benchmark client's figures beside ours, for the requests that it sent.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sim/costed/scenario.h"
#include "sim/ensemble/interval_corrections.h"
#include "workloads/benchmark_result.h"
#include "workloads/benchmark_workload.h"

namespace orrery {

// Statistics follow the client's own rule (numpy: linear interpolation between neighbours) over requests; the
// exception is itl_ms, whose percentiles are read off the pooled gaps without interpolation, at most one gap
// away in rank.
struct ComparedMetric {
  std::string name;
  double predicted = 0, low = 0, high = 0;  // 90 % interval of the prices; equal without intervals
  double measured = 0;
  // Where the ends were corrected (sim/ensemble/interval_corrections.h): by which pool, and where they were;
  // so, too, before a case's range widened them.
  std::string correction = {};
  double prices_low = 0, prices_high = 0;
  double error_percent() const { return (predicted / measured - 1) * 100; }  // measured > 0
  bool inside() const { return low <= measured && measured <= high; }
};

struct BenchmarkComparison {
  std::vector<ComparedMetric> metrics;       // in the file's order
  std::vector<std::vector<double>> samples;  // of each metric: the perturbed runs', in the order of draws
  std::vector<std::string> notes;
  int runs = 0;  // behind the intervals; 0 = none
  // Share of the nominal run's device time by the rung that its prices stand on.
  std::vector<std::pair<std::string, double>> provenance;
};

struct BenchmarkCompareOptions {
  int runs = 16;  // 0: no intervals
  int threads = 1;
  std::function<bool(std::uint64_t)> keep_going = {};
};

// The scenario with these requests for its workload.
Scenario with_requests(Scenario scenario, const BenchmarkWorkload& workload);

// Simulates the workload on the scenario's deployment. The scenario's own requests, time_scale, closed_loop
// and limit do not count; its front end does.
Result<BenchmarkComparison> compare_with_benchmark(Scenario scenario, const BenchmarkResult& measured,
                                                   const BenchmarkWorkload& workload,
                                                   const BenchmarkCompareOptions& options = {});

// Moves the ends of an interval that has a pool.
void correct_interval(ComparedMetric& metric, const IntervalCorrections& corrections,
                      const PriceEvidence& evidence);
// Of every metric, when there are intervals.
void correct_intervals(BenchmarkComparison& comparison, const IntervalCorrections& corrections,
                       const PriceEvidence& evidence);

// comparison.json: {metric: {predicted, low, high, measured, error_percent, inside, correction}}; low, high,
// inside, correction null without intervals, correction also where none was due.
Json comparison_json(const BenchmarkComparison& comparison);
std::string comparison_text(const BenchmarkComparison& comparison);

}  // namespace orrery
