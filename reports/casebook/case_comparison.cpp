#include "reports/casebook/case_comparison.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/statistics.h"
#include "base/text.h"
#include "reports/casebook/published_requests.h"
#include "sim/costed/run.h"
#include "sim/ensemble/ensemble.h"
#include "sim/ensemble/find_rate.h"

namespace orrery {

namespace {

class RecordedLatencies final : public RecordSink {
 public:
  void on_request(const RequestRecord& r) override {
    const bool done = r.status == RequestStatus::completed;
    ttft.push_back(done ? r.ttft.milliseconds() : -1);
    e2e.push_back(done ? r.e2e.milliseconds() : -1);
  }
  std::vector<double> ttft, e2e;  // in trace order; −1 = was not answered
};

void add_statistics(const std::string& quantity, std::vector<double> predicted, std::vector<double> measured,
                    std::vector<ComparedMetric>& out) {
  if (predicted.empty()) return;
  const auto add = [&](const char* name, double p, double m) {
    out.push_back({quantity + "." + name, p, p, p, m});
  };
  add("mean", mean_of(predicted), mean_of(measured));
  std::sort(predicted.begin(), predicted.end());
  std::sort(measured.begin(), measured.end());
  for (const auto& [name, p] : {std::pair{"p50", 50.0}, std::pair{"p90", 90.0}, std::pair{"p99", 99.0}})
    add(name, linear_percentile(predicted, p), linear_percentile(measured, p));
}

Result<RequestComparison> compare_requests(const PublishedRun& run, const CaseOptions& options) {
  RequestComparison out;
  out.file = run.requests->file;
  const std::string path = find_shared_file(out.file);
  if (path.empty()) {
    out.skipped = (out.file.starts_with("/") ? "" : "../shared/") + out.file +
                  " is not here: its requests were not replayed one by one";
    return out;
  }
  ORRERY_TRY(trace, read_published_requests(path, *run.requests));
  Scenario scenario = run.scenario;
  scenario.workload.generator.reset();
  scenario.workload.trace.clear();
  scenario.workload.requests = std::make_shared<const std::vector<TraceRequest>>(std::move(trace.requests));
  RecordedLatencies records;
  RunOptions running;
  running.sink = &records;
  running.keep_going = options.keep_going;
  ORRERY_TRY_STATUS(run_scenario(scenario, running));
  std::vector<double> ttft, e2e, tpot, ttft_measured, e2e_measured, tpot_measured, ttft_errors, e2e_errors;
  for (std::size_t i = 0; i < records.ttft.size(); ++i) {
    if (records.ttft[i] < 0) continue;
    ttft.push_back(records.ttft[i]);
    e2e.push_back(records.e2e[i]);
    ttft_measured.push_back(trace.ttft_ms[i]);
    e2e_measured.push_back(trace.e2e_ms[i]);
    ttft_errors.push_back(std::abs(records.ttft[i] / trace.ttft_ms[i] - 1));
    e2e_errors.push_back(std::abs(records.e2e[i] / trace.e2e_ms[i] - 1));
    const int gaps = (*scenario.workload.requests)[i].output_tokens - 1;
    if (gaps < 1) continue;
    tpot.push_back((records.e2e[i] - records.ttft[i]) / gaps);
    tpot_measured.push_back((trace.e2e_ms[i] - trace.ttft_ms[i]) / gaps);
  }
  out.requests = ttft.size();
  if (out.requests == 0) {
    out.skipped = "no request was answered in the simulation";
    return out;
  }
  add_statistics("ttft_ms", ttft, ttft_measured, out.metrics);
  add_statistics("tpot_ms", tpot, tpot_measured, out.metrics);
  add_statistics("e2e_ms", e2e, e2e_measured, out.metrics);
  std::sort(ttft_errors.begin(), ttft_errors.end());
  std::sort(e2e_errors.begin(), e2e_errors.end());
  out.ttft_median_abs = linear_percentile(ttft_errors, 50);
  out.e2e_median_abs = linear_percentile(e2e_errors, 50);
  return out;
}

ComparedRun compare_capacity(const PublishedRun& run, const CaseOptions& options) {
  ComparedRun row;
  row.name = run.name;
  row.data = run.data;
  const MemoryPlan& memory = run.scenario.pool.memory;
  const auto blocks = static_cast<double>(memory.kv_blocks);
  const KvInterval interval = kv_interval(memory, normal_deviations);
  for (const BenchmarkMetric& m : run.measured)
    row.metrics.push_back(
        {m.name(), blocks, static_cast<double>(interval.low), static_cast<double>(interval.high), m.value});
  row.intervals = options.runs > 0;
  return row;
}

}  // namespace

Result<BenchmarkWorkload> requests_of(const Scenario& scenario) {
  BenchmarkWorkload out;
  out.concurrency = scenario.workload.closed_loop_concurrency;
  ORRERY_TRY(source, open_workload(scenario.workload, scenario.seed));
  TraceRequest request;
  while (source->next(request)) out.requests.push_back(request);
  if (source->error() != nullptr) return *source->error();
  return out;
}

std::string verdict(const ComparedMetric& m, bool intervals) {
  if (!intervals) return "";
  if (!m.inside()) return "outside";
  return (m.high - m.low) / 2 <= most_half_width * m.predicted ? "inside" : "uninformative";
}

namespace {

// What one run predicts: its own figures first, then those that pairs need of it.
struct Predicted {
  std::vector<ComparedMetric> metrics;
  std::vector<std::vector<double>> samples;
  std::vector<std::pair<std::string, double>> provenance;
  std::vector<std::string> notes;

  // Position of a metric; metrics.size() where there is no prediction.
  std::size_t find(const std::string& name) const {
    std::size_t i = 0;
    while (i < metrics.size() && metrics[i].name != name) ++i;
    return i;
  }
};

std::vector<BenchmarkMetric> wanted_of(const PublishedCase& published, std::size_t run) {
  std::vector<BenchmarkMetric> wanted = published.runs[run].measured;
  const auto add = [&](const std::vector<BenchmarkMetric>& metrics) {
    for (BenchmarkMetric m : metrics) {
      m.value = 0;  // of the pair or the range, not of this run
      const auto same = [&](const BenchmarkMetric& have) { return have.name() == m.name(); };
      if (std::none_of(wanted.begin(), wanted.end(), same)) wanted.push_back(std::move(m));
    }
  };
  for (const PublishedPair& pair : published.pairs) {
    if (pair.of == run || pair.to == run) add(pair.measured);
  }
  for (const PublishedRange& range : published.ranges) {
    if (!range.of_pairs && (range.low == run || range.high == run)) add(published.runs[range.of].measured);
  }
  return wanted;
}

double step_metric(const StepBreakdown& step, const std::string& name) {
  if (name == "step.device_ms") return static_cast<double>(step.device_ns) * 1e-6;
  std::int64_t sum = 0;
  for (const OpLine& line : step.ops) {
    if (name == step_class_metric(line.op_class)) sum += line.time_ns;
  }
  return static_cast<double>(sum) * 1e-6;
}

// What overlaps is a line below zero, of no rung; shares are of the others' sum.
std::vector<std::pair<std::string, double>> rung_shares(const StepBreakdown& step) {
  std::vector<std::pair<std::string, double>> out;
  double sum = 0;
  for (const OpLine& line : step.ops) {
    if (line.time_ns <= 0) continue;
    const auto time = static_cast<double>(line.time_ns);
    sum += time;
    const auto known =
        std::find_if(out.begin(), out.end(), [&](const auto& r) { return r.first == line.rung; });
    if (known == out.end())
      out.emplace_back(line.rung, time);
    else
      known->second += time;
  }
  for (auto& [rung, time] : out) time /= sum;
  return out;
}

Result<Predicted> predict_step(const PublishedRun& run, const std::vector<BenchmarkMetric>& wanted,
                               const CaseOptions& options) {
  const InstanceSpec& instance = run.scenario.pool.instance;
  EnsembleOptions ensemble;
  ensemble.runs = options.runs;
  ensemble.threads = options.threads;
  ORRERY_TRY(intervals,
             estimate_intervals(run.scenario, ensemble, [&](const RunOptions& draw) -> Result<RunMetrics> {
               ORRERY_TRY(pricer, StepPricer::create(instance, product(run.scenario.what_if, draw.scales)));
               const StepBreakdown step = pricer.explain(run.step->shape());
               RunMetrics out;
               for (const BenchmarkMetric& m : wanted)
                 out.metrics.push_back({.name = m.name(), .nominal = step_metric(step, m.quantity)});
               return out;
             }));
  Predicted out;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const MetricInterval& m = intervals.metrics[i];
    out.metrics.push_back({m.name, m.nominal, m.low, m.high, wanted[i].value});
  }
  out.samples = std::move(intervals.samples);
  ORRERY_TRY(pricer, StepPricer::create(instance, run.scenario.what_if));
  out.provenance = rung_shares(pricer.explain(run.step->shape()));
  return out;
}

// Each draw of prices has a highest rate of its own: a dozen runs, so draws are few.
constexpr int most_rate_searches = 4;
Result<Predicted> predict_rate(const PublishedRun& run, const CaseOptions& options) {
  EnsembleOptions ensemble;
  ensemble.runs = std::min(options.runs, most_rate_searches);
  ensemble.threads = options.threads;
  ORRERY_TRY(intervals,
             estimate_intervals(run.scenario, ensemble, [&](const RunOptions& draw) -> Result<RunMetrics> {
               ORRERY_TRY(search, find_rate(run.scenario, options.keep_going, draw.scales));
               const double rate = search.found ? 60 * search.best.requests_per_s : 0;
               return RunMetrics{{{.name = rate_metric, .nominal = rate}}, 0};
             }));
  const MetricInterval& m = intervals.metrics[0];
  Predicted out;
  out.metrics.push_back({m.name, m.nominal, m.low, m.high, run.measured.empty() ? 0 : run.measured[0].value});
  out.samples = std::move(intervals.samples);
  RunOptions running;
  running.keep_going = options.keep_going;
  ORRERY_TRY(nominal, run_scenario(run.scenario, running));
  out.provenance = nominal.price_sources;
  if (m.nominal == 0) out.notes.push_back("no rate meets the limits");
  return out;
}

Result<Predicted> predict_workload(const PublishedRun& run, const std::vector<BenchmarkMetric>& wanted,
                                   const CaseOptions& options) {
  ORRERY_TRY(workload, requests_of(run.scenario));
  BenchmarkResult figures;
  figures.metrics = wanted;
  BenchmarkCompareOptions comparing;
  comparing.runs = options.runs;
  comparing.threads = options.threads;
  comparing.keep_going = options.keep_going;
  ORRERY_TRY(compared, compare_with_benchmark(run.scenario, figures, workload, comparing));
  Predicted out{std::move(compared.metrics), std::move(compared.samples), std::move(compared.provenance), {}};
  for (const std::string& note : compared.notes) {
    // The last two notes of every comparison speak of a benchmark's client; the case says how it was
    // measured.
    if (note.starts_with("no prediction") || note.find("not answered") != std::string::npos)
      out.notes.push_back(note);
  }
  return out;
}

// 1: it does not fit, as published.
Result<ComparedRun> compare_fit(const PublishedRun& run, const CaseOptions& options) {
  ComparedRun row;
  row.name = run.name;
  row.data = run.data;
  bool fits = run.infeasible.empty();
  if (fits) {
    RunOptions running;
    running.keep_going = options.keep_going;
    const Result<RunResult> result = run_scenario(run.scenario, running);
    if (!result.ok() && result.errors().front().kind != ErrorKind::infeasible) return result.errors();
    fits = result.ok() && result.value().completed > 0;
  } else {
    row.notes.push_back(run.infeasible);
  }
  const double value = fits ? 0 : 1;
  row.metrics.push_back({"does_not_fit", value, value, value, 1});
  return row;
}

// Run by run under the same draws, so that what both share cancels.
ComparedRun compare_pair(const PublishedPair& pair, const Predicted& of, const Predicted& to, int runs) {
  ComparedRun row;
  row.name = pair.name;
  row.data = pair.data;
  row.intervals = runs > 0;
  for (const BenchmarkMetric& m : pair.measured) {
    const std::size_t a = of.find(m.name()), b = to.find(m.name());
    if (a == of.metrics.size() || b == to.metrics.size() || to.metrics[b].predicted <= 0) {
      row.notes.push_back("no prediction of the ratio of " + m.name());
      continue;
    }
    MetricInterval ratio{.name = m.name(), .nominal = of.metrics[a].predicted / to.metrics[b].predicted};
    std::vector<double> values;
    for (std::size_t i = 0; i < of.samples[a].size() && i < to.samples[b].size(); ++i) {
      if (of.samples[a][i] > 0 && to.samples[b][i] > 0) values.push_back(of.samples[a][i] / to.samples[b][i]);
    }
    set_bounds(ratio, std::move(values));
    row.metrics.push_back({"ratio of " + m.name(), ratio.nominal, ratio.low, ratio.high, m.value});
  }
  return row;
}

// An assumption that may be off: the interval holds the predictions at both of its ends, the prediction
// stays.
void widen(const std::string& what, const std::vector<ComparedMetric>& low,
           const std::vector<ComparedMetric>& high, ComparedRun& row) {
  const auto plain_name = [](const std::string& name) {
    return name.starts_with("ratio of ") ? name.substr(9) : name;
  };
  for (ComparedMetric& m : row.metrics) {
    if (row.intervals && !(m.prices_high > 0)) {  // what intervals are fitted to and compared with
      m.prices_low = m.low;
      m.prices_high = m.high;
    }
    std::vector<std::string> at;
    for (const std::vector<ComparedMetric>* end : {&low, &high}) {
      for (const ComparedMetric& e : *end) {
        if (plain_name(e.name) != plain_name(m.name)) continue;
        at.push_back(format_fixed(e.predicted, e.predicted < 10 ? 3 : 1));
        if (!row.intervals) continue;
        m.low = std::min(m.low, e.low);
        m.high = std::max(m.high, e.high);
      }
    }
    if (!at.empty()) row.notes.push_back(m.name + ", " + what + ": " + join(at, " and "));
  }
}

}  // namespace

Result<CaseComparison> compare_case(const PublishedCase& published, const CaseOptions& options) {
  CaseComparison out;
  out.about = published;
  std::vector<Predicted> predictions(published.runs.size());
  for (std::size_t i = 0; i < published.runs.size(); ++i) {
    const PublishedRun& run = published.runs[i];
    if (options.said) options.said(published.id + ": " + run.name);
    if (run.is_capacity()) {
      out.runs.push_back(compare_capacity(run, options));
      continue;
    }
    if (run.does_not_fit) {
      ORRERY_TRY(fit, compare_fit(run, options));
      out.runs.push_back(std::move(fit));
      continue;
    }
    const std::vector<BenchmarkMetric> wanted = wanted_of(published, i);
    auto predicted = run.step        ? predict_step(run, wanted, options)
                     : run.is_rate() ? predict_rate(run, options)
                                     : predict_workload(run, wanted, options);
    if (!predicted.ok()) return predicted.errors();
    predictions[i] = std::move(predicted.value());
    if (run.measured.empty()) continue;
    ComparedRun row;
    row.name = run.name;
    row.data = run.data;
    for (const ComparedMetric& m : predictions[i].metrics) {
      if (m.measured > 0) row.metrics.push_back(m);
    }
    row.intervals = options.runs > 0;
    row.provenance = predictions[i].provenance;
    row.notes = predictions[i].notes;
    if (run.requests && options.requests) {
      ORRERY_TRY(requests, compare_requests(run, options));
      row.requests.push_back(std::move(requests));
    }
    out.runs.push_back(std::move(row));
  }
  std::vector<ComparedRun> pairs;
  for (const PublishedPair& pair : published.pairs)
    pairs.push_back(compare_pair(pair, predictions[pair.of], predictions[pair.to], options.runs));
  for (const PublishedRange& range : published.ranges) {
    if (range.of_pairs) {
      widen(range.what, pairs[range.low].metrics, pairs[range.high].metrics, pairs[range.of]);
      continue;
    }
    const auto named = [&](const ComparedRun& r) { return r.name == published.runs[range.of].name; };
    const auto row = std::find_if(out.runs.begin(), out.runs.end(), named);
    if (row != out.runs.end())
      widen(range.what, predictions[range.low].metrics, predictions[range.high].metrics, *row);
  }
  for (ComparedRun& pair : pairs) {
    const bool compared = std::any_of(pair.metrics.begin(), pair.metrics.end(),
                                      [](const ComparedMetric& m) { return m.measured > 0; });
    if (compared || pair.metrics.empty()) out.runs.push_back(std::move(pair));
  }
  return out;
}

CaseComparison case_of(const RunFidelity& run) {
  CaseComparison out;
  out.own = true;
  out.about.id = run.run.name;
  out.about.title = "our own step log";
  out.about.engine = "vLLM 0.24.0";
  out.about.hardware = run.run.hardware;
  out.about.model = run.run.model;
  out.about.source = "Orrery";
  out.about.assumptions.push_back("fitted to it: " + run.run.fitted);
  out.about.refusal = run.skipped;
  for (const ExperimentSplit& experiment : run.experiments) {
    ComparedRun row;
    row.name = experiment.experiment;
    for (const MetricSplit& m : experiment.metrics) {
      if (m.requests > 0)
        row.metrics.push_back({m.metric + ".mean", m.predicted, m.predicted, m.predicted, m.measured});
    }
    if (!row.metrics.empty()) out.runs.push_back(std::move(row));
  }
  return out;
}

}  // namespace orrery
