#include "reports/casebook/case_comparison.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/statistics.h"
#include "reports/casebook/published_requests.h"
#include "sim/costed/run.h"

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

ComparedRun compare_capacity(const PublishedRun& run) {
  ComparedRun row;
  row.name = run.name;
  row.data = run.data;
  const auto blocks = static_cast<double>(run.scenario.pool.memory.kv_blocks);
  for (const BenchmarkMetric& m : run.measured)
    row.metrics.push_back({m.name(), blocks, blocks, blocks, m.value});
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

Result<CaseComparison> compare_case(const PublishedCase& published, const CaseOptions& options) {
  CaseComparison out;
  out.about = published;
  for (const PublishedRun& run : published.runs) {
    if (options.said) options.said(published.id + ": " + run.name);
    if (run.is_capacity()) {
      out.runs.push_back(compare_capacity(run));
      continue;
    }
    ORRERY_TRY(workload, requests_of(run.scenario));
    BenchmarkResult figures;
    figures.metrics = run.measured;
    BenchmarkCompareOptions comparing;
    comparing.runs = options.runs;
    comparing.threads = options.threads;
    comparing.keep_going = options.keep_going;
    ORRERY_TRY(compared, compare_with_benchmark(run.scenario, figures, workload, comparing));
    ComparedRun row;
    row.name = run.name;
    row.data = run.data;
    row.metrics = std::move(compared.metrics);
    row.intervals = options.runs > 0;
    row.provenance = std::move(compared.provenance);
    for (const std::string& note : compared.notes) {
      // The last two notes of every comparison speak of a benchmark's client; the case says how it was
      // measured.
      if (note.starts_with("no prediction") || note.find("not answered") != std::string::npos)
        row.notes.push_back(note);
    }
    if (run.requests && options.requests) {
      ORRERY_TRY(requests, compare_requests(run, options));
      row.requests.push_back(std::move(requests));
    }
    out.runs.push_back(std::move(row));
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
