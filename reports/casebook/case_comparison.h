// Predictions beside the figures of a published case, or of one of our own measured runs.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "reports/benchmark_comparison.h"
#include "reports/casebook/engine_fidelity.h"
#include "reports/casebook/published_case.h"

namespace orrery {

// The same requests one by one, as the source recorded them (only with ../shared).
struct RequestComparison {
  std::string file;                     // in ../shared
  std::string skipped;                  // why there is none; else empty
  std::vector<ComparedMetric> metrics;  // no intervals
  std::size_t requests = 0;
  double ttft_median_abs = 0, e2e_median_abs = 0;  // of predicted ÷ measured − 1 per request
};

struct ComparedRun {
  std::string name, data;
  std::vector<ComparedMetric> metrics;
  bool intervals = false;
  std::vector<std::pair<std::string, double>> provenance;  // share of device time by rung
  std::vector<std::string> notes;
  std::vector<RequestComparison> requests;  // at most one
};

struct CaseComparison {
  PublishedCase about;
  bool own = false;               // measured by us
  std::vector<ComparedRun> runs;  // empty when the case is refused
};

// A prediction is `inside` when the measured value lies in its 90 % interval and the interval's half-width is
// at most a quarter of the prediction; wider, it says too little: `uninformative`. Without an interval: "".
constexpr double most_half_width = 0.25;
std::string verdict(const ComparedMetric& metric, bool intervals);

// The requests that a scenario's workload asks for, so that a comparison can send them itself.
Result<BenchmarkWorkload> requests_of(const Scenario& scenario);

struct CaseOptions {
  int runs = 16;  // behind the intervals; 0: none (--fast)
  int threads = 1;
  bool requests = true;  // read ../shared where it is
  std::function<bool(std::uint64_t)> keep_going = {};
  std::function<void(const std::string&)> said = {};  // what is being worked on
};

Result<CaseComparison> compare_case(const PublishedCase& published, const CaseOptions& options);

// One of reports/cases/engine_runs.yaml: the means that `validate --engines` reports, as a case.
CaseComparison case_of(const RunFidelity& run);

}  // namespace orrery
