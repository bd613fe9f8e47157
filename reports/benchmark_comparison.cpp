#include "reports/benchmark_comparison.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "base/statistics.h"
#include "base/text.h"
#include "sim/ensemble/ensemble.h"

namespace orrery {

namespace {

using Statistic = BenchmarkMetric::Statistic;

// Latencies of completed requests, milliseconds.
class LatencySink final : public RecordSink {
 public:
  void on_request(const RequestRecord& r) override {
    if (r.status != RequestStatus::completed) return;
    ttft.push_back(r.ttft.milliseconds());
    e2e.push_back(r.e2e.milliseconds());
    // From the exact nanoseconds: tpot_ns() is rounded.
    if (r.output_tokens > 1) tpot.push_back((r.e2e - r.ttft).milliseconds() / (r.output_tokens - 1));
  }
  void sort() {
    for (std::vector<double>* values : {&ttft, &tpot, &e2e}) std::sort(values->begin(), values->end());
  }
  std::vector<double> ttft, tpot, e2e;
};

std::optional<double> statistic(const std::vector<double>& sorted, const BenchmarkMetric& metric) {
  if (sorted.empty()) return std::nullopt;
  switch (metric.statistic) {
    case Statistic::mean: return mean_of(sorted);
    case Statistic::deviation: return deviation_of(sorted);
    case Statistic::percentile: return linear_percentile(sorted, metric.percentile);
    case Statistic::largest: return sorted.back();
    case Statistic::value: break;
  }
  return std::nullopt;
}

// Pooled gaps are too many to keep; the run's distribution knows whole percentiles.
std::optional<double> gap_statistic(const Distribution& d, const BenchmarkMetric& metric) {
  if (d.count == 0) return std::nullopt;
  if (metric.statistic == Statistic::mean) return d.mean * 1e-6;
  if (metric.statistic == Statistic::largest) return static_cast<double>(d.max) * 1e-6;
  const double p = metric.percentile;
  if (metric.statistic != Statistic::percentile || p != std::floor(p) || d.curve.size() != 101)
    return std::nullopt;
  return static_cast<double>(d.curve[static_cast<std::size_t>(p)]) * 1e-6;
}

// The client's clock runs from its start, which is time 0 of an open loop, to the last answer.
double duration_s(const RunResult& run, bool closed_loop) {
  const SimTime start = closed_loop ? run.first_arrival : SimTime();
  return (run.last_finish - start).seconds();
}

std::optional<double> rate(const RunResult& run, const std::string& quantity, double seconds) {
  if (quantity == "duration_s") return seconds;
  const auto per_second = [&](std::uint64_t n) { return static_cast<double>(n) / seconds; };
  if (quantity == "throughput.requests_per_s") return per_second(run.completed);
  if (quantity == "throughput.input_tokens_per_s") return per_second(run.input_tokens);
  if (quantity == "throughput.output_tokens_per_s") return per_second(run.output_tokens);
  if (quantity == "throughput.total_tokens_per_s") return per_second(run.input_tokens + run.output_tokens);
  return std::nullopt;
}

std::optional<double> predicted(const BenchmarkMetric& metric, const RunResult& run, const LatencySink& sink,
                                bool closed_loop) {
  if (metric.quantity == "ttft_ms") return statistic(sink.ttft, metric);
  if (metric.quantity == "tpot_ms") return statistic(sink.tpot, metric);
  if (metric.quantity == "e2e_ms") return statistic(sink.e2e, metric);
  if (metric.quantity == "itl_ms") return gap_statistic(run.itl, metric);
  const double seconds = duration_s(run, closed_loop);
  return seconds > 0 ? rate(run, metric.quantity, seconds) : std::nullopt;
}

std::uint64_t unanswered(const RunResult& run) {
  return run.failed + run.cancelled + run.timed_out + run.rejected;
}

// What only the nominal run is asked for.
struct NominalRun {
  std::uint64_t unanswered = 0;
  std::vector<std::pair<std::string, double>> price_sources;
};

Result<RunMetrics> measure(const Scenario& scenario, const std::vector<BenchmarkMetric>& wanted,
                           RunOptions options, NominalRun& nominal) {
  LatencySink sink;
  options.sink = &sink;
  ORRERY_TRY(run, run_scenario(scenario, options));
  sink.sort();
  RunMetrics out;
  out.requests = run.completed + unanswered(run);
  nominal.unanswered = unanswered(run);
  nominal.price_sources = run.price_sources;
  const bool closed_loop = scenario.workload.closed_loop_concurrency > 0;
  for (const BenchmarkMetric& metric : wanted) {
    // A perturbed run that lacks what the nominal one has keeps its place in the list.
    const std::optional<double> value = predicted(metric, run, sink, closed_loop);
    out.metrics.push_back({.name = metric.name(), .nominal = value.value_or(-1)});
  }
  return out;
}

}  // namespace

Scenario with_requests(Scenario scenario, const BenchmarkWorkload& workload) {
  WorkloadSpec& spec = scenario.workload;
  spec.trace.clear();
  spec.generator.reset();
  spec.requests = std::make_shared<const std::vector<TraceRequest>>(workload.requests);
  spec.time_scale = 1;
  spec.closed_loop_concurrency = workload.concurrency;
  spec.limit_requests = 0;
  spec.limit_duration_s = 0;
  return scenario;
}

Result<BenchmarkComparison> compare_with_benchmark(Scenario scenario, const BenchmarkResult& measured,
                                                   const BenchmarkWorkload& workload,
                                                   const BenchmarkCompareOptions& options) {
  scenario = with_requests(std::move(scenario), workload);
  // The nominal run by itself, for what only it reports; perturbed runs may be on several threads.
  NominalRun nominal;
  EnsembleOptions ensemble;
  ensemble.runs = 0;
  ensemble.limit_requests = 0;
  ensemble.threads = options.threads;
  ensemble.keep_going = options.keep_going;
  ORRERY_TRY(intervals, estimate_intervals(scenario, ensemble, [&](const RunOptions& run) {
               return measure(scenario, measured.metrics, run, nominal);
             }));
  if (options.runs > 0) {
    ensemble.runs = options.runs;
    ORRERY_TRY(estimated, estimate_intervals(scenario, ensemble, [&](const RunOptions& run) {
                 NominalRun ignored;
                 return measure(scenario, measured.metrics, run, ignored);
               }));
    intervals = std::move(estimated);
  }
  BenchmarkComparison out;
  out.runs = options.runs;
  out.provenance = std::move(nominal.price_sources);
  out.notes = workload.notes;
  std::vector<std::string> without;
  for (std::size_t i = 0; i < measured.metrics.size(); ++i) {
    const MetricInterval& m = intervals.metrics[i];
    if (m.nominal < 0) {
      without.push_back(m.name);
      continue;
    }
    out.metrics.push_back({m.name, m.nominal, m.low, m.high, measured.metrics[i].value});
    out.samples.push_back(intervals.samples[i]);
  }
  if (!without.empty()) out.notes.push_back("no prediction of " + join(without, ", "));
  if (nominal.unanswered > 0)
    out.notes.push_back(std::to_string(nominal.unanswered) +
                        " requests were not answered in the simulation; they count nowhere");
  out.notes.emplace_back(
      "percentiles by linear interpolation, as the client computes them; itl_ms: the nearest gap");
  out.notes.emplace_back(
      "the client's requests went through the engine's API server; the prediction's do so only with "
      "workload.frontend: openai");
  return out;
}

void correct_interval(ComparedMetric& metric, const IntervalCorrections& corrections,
                      const PriceEvidence& evidence) {
  if (!(metric.prices_high > 0)) {
    metric.prices_low = metric.low;
    metric.prices_high = metric.high;
  }
  const bool ranged = metric.low < metric.prices_low || metric.high > metric.prices_high;  // by what a case
                                                                                           // leaves open
  double low = metric.prices_low, high = metric.prices_high;
  const std::string correction = corrections.correct(metric.name, evidence, metric.predicted, low, high);
  if (correction.empty()) return;
  metric.low = ranged ? std::min(low, metric.low) : low;
  metric.high = ranged ? std::max(high, metric.high) : high;
  metric.correction = correction;
}

void correct_intervals(BenchmarkComparison& comparison, const IntervalCorrections& corrections,
                       const PriceEvidence& evidence) {
  if (comparison.runs == 0) return;
  for (ComparedMetric& m : comparison.metrics) correct_interval(m, corrections, evidence);
}

Json comparison_json(const BenchmarkComparison& comparison) {
  Json out = Json::object();
  for (const ComparedMetric& m : comparison.metrics) {
    const bool interval = comparison.runs > 0;
    out[m.name] = {{"predicted", m.predicted},
                   {"low", interval ? Json(m.low) : Json(nullptr)},
                   {"high", interval ? Json(m.high) : Json(nullptr)},
                   {"measured", m.measured},
                   {"error_percent", m.error_percent()},
                   {"inside", interval ? Json(m.inside()) : Json(nullptr)},
                   {"correction", m.correction.empty() ? Json(nullptr) : Json(m.correction)}};
  }
  return out;
}

std::string comparison_text(const BenchmarkComparison& comparison) {
  const auto number = [](double v) { return format_fixed(v, v < 100 ? 2 : 1); };
  TextTable table({"metric", "predicted", "90 % interval", "measured", "error", "inside"});
  for (const ComparedMetric& m : comparison.metrics) {
    const bool interval = comparison.runs > 0;
    const double error = m.error_percent();
    table.add({m.name, number(m.predicted), interval ? number(m.low) + " … " + number(m.high) : "-",
               number(m.measured), (error < 0 ? "" : "+") + format_fixed(error, 1) + " %",
               interval ? (m.inside() ? "yes" : "no") : "-"});
  }
  std::string out = table.to_string();
  for (const std::string& note : comparison.notes) out += "· " + note + "\n";
  return out;
}

}  // namespace orrery
