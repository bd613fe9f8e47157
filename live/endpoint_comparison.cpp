#include "live/endpoint_comparison.h"

#include <algorithm>

#include "base/statistics.h"
#include "base/text.h"
#include "sim/costed/run.h"

namespace orrery {

namespace {

using Statistic = BenchmarkMetric::Statistic;

BenchmarkMetric metric(const char* quantity, Statistic statistic, double percentile, double value) {
  return {.quantity = quantity, .statistic = statistic, .percentile = percentile, .value = value, .key = ""};
}

void add_latencies(const char* quantity, std::vector<double> values, std::vector<BenchmarkMetric>& out) {
  if (values.empty()) return;
  std::sort(values.begin(), values.end());
  out.push_back(metric(quantity, Statistic::mean, 0, mean_of(values)));
  for (const double p : {50.0, 90.0, 99.0})
    out.push_back(metric(quantity, Statistic::percentile, p, linear_percentile(values, p)));
}

double ms(std::int64_t ns) { return static_cast<double>(ns) * 1e-6; }

std::uint64_t count(const EndpointRun& run, RequestStatus status) {
  return static_cast<std::uint64_t>(std::count_if(run.records.begin(), run.records.end(),
                                                  [&](const auto& r) { return r.status == status; }));
}

BenchmarkResult measured_of(const EndpointRun& run) {
  BenchmarkResult m;
  m.model = run.model;
  std::vector<double> ttft, tpot, e2e;
  for (const EndpointRecord& r : run.records) {
    if (r.status != RequestStatus::completed) {
      ++m.failed;
      continue;
    }
    ++m.completed;
    m.input_tokens += static_cast<std::uint64_t>(r.prompt_tokens);
    m.output_tokens += static_cast<std::uint64_t>(r.output_tokens);
    ttft.push_back(ms(r.first - r.intended));
    e2e.push_back(ms(r.last - r.intended));
    if (r.output_tokens > 1) tpot.push_back(ms(r.last - r.first) / static_cast<double>(r.output_tokens - 1));
  }
  add_latencies("ttft_ms", ttft, m.metrics);
  add_latencies("tpot_ms", tpot, m.metrics);
  if (run.itl.count > 0) {
    m.metrics.push_back(metric("itl_ms", Statistic::mean, 0, run.itl.mean * 1e-6));
    m.metrics.push_back(metric("itl_ms", Statistic::percentile, 50, ms(run.itl.p50)));
    m.metrics.push_back(metric("itl_ms", Statistic::percentile, 99, ms(run.itl.p99)));
  }
  add_latencies("e2e_ms", e2e, m.metrics);
  if (run.duration_s > 0) {
    const auto rate = [&](const char* name, std::uint64_t n) {
      m.metrics.push_back(metric(name, Statistic::value, 0, static_cast<double>(n) / run.duration_s));
    };
    m.metrics.push_back(metric("duration_s", Statistic::value, 0, run.duration_s));
    rate("throughput.requests_per_s", m.completed);
    rate("throughput.output_tokens_per_s", m.output_tokens);
  }
  // A gap or latency of nothing has no relative error.
  std::erase_if(m.metrics, [](const BenchmarkMetric& x) { return !(x.value > 0); });
  return m;
}

BenchmarkWorkload workload_of(const EndpointRun& run, std::int64_t concurrency) {
  BenchmarkWorkload w;
  w.concurrency = concurrency;
  std::uint64_t other_prompts = 0;
  for (std::size_t i = 0; i < run.requests.size(); ++i) {
    TraceRequest r = run.requests[i];
    const EndpointRecord& record = run.records[i];
    r.index = i;
    if (record.status == RequestStatus::completed) {
      r.output_tokens = r.max_output_tokens =
          static_cast<std::int32_t>(std::max<std::int64_t>(1, record.output_tokens));
      if (record.prompt_tokens != r.prompt_tokens) ++other_prompts;
      // Names of content go with the trace's length.
      if (record.prompt_tokens > 0 && r.hash_ids.empty())
        r.prompt_tokens = static_cast<std::int32_t>(record.prompt_tokens);
    }
    w.requests.push_back(std::move(r));
  }
  if (other_prompts > 0)
    w.notes.push_back("the server counts another number of prompt tokens than the trace for " +
                      std::to_string(other_prompts) + " requests" +
                      " (text prompts are made of common words, and chat templates add some)");
  return w;
}

Json latency(const Distribution& d) {
  return {{"mean", d.mean * 1e-6}, {"p50", ms(d.p50)}, {"p99", ms(d.p99)}, {"max", ms(d.max)}};
}

std::string first_error(const EndpointRun& run) {
  for (const EndpointRecord& r : run.records)
    if (!r.error.empty()) return "request " + std::to_string(r.request) + ": " + r.error;
  return "";
}

class AllRecords final : public RecordSink {
 public:
  void on_request(const RequestRecord& r) override { records.push_back(r); }
  std::vector<RequestRecord> records;
};

// Requests of token ids pass by the API server's tokeniser.
Scenario as_sent(Scenario scenario, const EndpointRun& run) {
  if (run.text_prompts) return scenario;
  const auto without = [](PoolSpec& pool) {
    EngineProfile& engine = pool.instance.engine;
    if (engine.front_end) engine.front_end->tokenize = engine.front_end->read_token_id;
  };
  without(scenario.pool);
  for (PoolSpec& pool : scenario.other_pools) without(pool);
  return scenario;
}

}  // namespace

Result<EndpointComparison> compare_with_endpoint(const Scenario& deployed, const EndpointRun& run,
                                                 const BenchmarkCompareOptions& options) {
  const Scenario scenario = as_sent(deployed, run);
  const BenchmarkResult measured = measured_of(run);
  if (measured.completed == 0)
    return make_error(ErrorKind::check_failed, "the server completed none of " +
                                                   std::to_string(run.records.size()) + " requests; " +
                                                   first_error(run));
  const BenchmarkWorkload workload = workload_of(run, scenario.workload.closed_loop_concurrency);
  ORRERY_TRY(compared, compare_with_benchmark(scenario, measured, workload, options));
  ORRERY_TRY(corrections, shipped_interval_corrections());
  correct_intervals(compared, corrections, evidence_of(scenario, compared.provenance));
  AllRecords predicted;
  RunOptions nominal;
  nominal.sink = &predicted;
  nominal.keep_going = options.keep_going;
  ORRERY_TRY(result, run_scenario(with_requests(scenario, workload), nominal));
  EndpointComparison out;
  out.compared = std::move(compared);
  out.predicted = std::move(predicted.records);
  out.series = std::move(result.series);
  out.kv_blocks = scenario.pool.memory.kv_blocks;
  for (const ComparedMetric& m : out.compared.metrics)
    if (out.compared.runs > 0 && !m.inside()) out.missed.push_back(m.name);
  if (run.late())
    out.verdict = "late";
  else if (out.compared.runs == 0)
    out.verdict = "uninformative";
  else
    out.verdict = out.missed.empty() ? "inside" : "outside";
  return out;
}

Status add_step_evidence(EndpointComparison& comparison, const Scenario& scenario, const EndpointRun& run,
                         MeasuredRun log, const std::string& experiment) {
  if (!scenario.other_pools.empty() || scenario.pool.engines() > 1)
    return make_error(ErrorKind::usage, "--steps: a step log is of one engine, the scenario has several", {},
                      "--steps");
  std::vector<SeenRequest> seen;
  for (std::size_t i = 0; i < run.records.size(); ++i) {
    const EndpointRecord& r = run.records[i];
    if (r.status != RequestStatus::completed) continue;
    SeenRequest s{.prompt_tokens = r.prompt_tokens,
                  .output_tokens = r.output_tokens,
                  .ttft_ms = ms(r.first - r.intended),
                  .e2e_ms = ms(r.last - r.intended)};
    if (i < comparison.predicted.size() && comparison.predicted[i].status == RequestStatus::completed) {
      s.predicted_ttft_ms = comparison.predicted[i].ttft.milliseconds();
      s.predicted_e2e_ms = comparison.predicted[i].e2e.milliseconds();
    }
    seen.push_back(s);
  }
  ORRERY_TRY(evidence, step_evidence(scenario, std::move(log), experiment, seen,
                                     scenario.workload.closed_loop_concurrency));
  comparison.steps = std::move(evidence);
  return ok_status();
}

Json endpoint_json(const EndpointComparison& comparison, const EndpointRun& run) {
  Json out = comparison_json(comparison.compared);
  // A plan, not a distribution: it has no interval.
  if (run.kv_blocks > 0) {
    const auto planned = static_cast<double>(comparison.kv_blocks), said = static_cast<double>(run.kv_blocks);
    out["kv_cache.blocks"] = {{"predicted", comparison.kv_blocks},
                              {"low", nullptr},
                              {"high", nullptr},
                              {"measured", run.kv_blocks},
                              {"error_percent", (planned / said - 1) * 100},
                              {"inside", nullptr},
                              {"correction", nullptr}};
  }
  out["verdict"] = comparison.verdict;
  out["missed"] = comparison.missed;
  out["client"] = {{"late", run.late()},
                   {"prompts", run.text_prompts ? "text" : "tokens"},
                   {"lateness_ms", latency(run.lateness)},
                   {"loop_lag_ms", latency(run.loop_lag)},
                   {"interrupted", run.interrupted},
                   {"connections", run.connections},
                   {"most_streams", run.most_streams}};
  Json states = Json::array();
  for (const EndpointScrape& s : run.scrapes)
    states.push_back(
        {{"at_s", s.at_s}, {"running", s.running}, {"waiting", s.waiting}, {"kv_usage", s.kv_usage}});
  out["server"] = {{"model", run.model},
                   {"requests", run.records.size()},
                   {"completed", count(run, RequestStatus::completed)},
                   {"failed", count(run, RequestStatus::failed)},
                   {"timed_out", count(run, RequestStatus::timed_out)},
                   {"cancelled", count(run, RequestStatus::cancelled)},
                   {"rejected", count(run, RequestStatus::rejected)},
                   {"retried", run.retried},
                   {"http_429", run.refused_429},
                   {"http_5xx", run.refused_5xx},
                   {"http_other", run.other_status},
                   {"no_connection", run.no_connection},
                   {"half_open", run.half_open},
                   {"cut", run.cut},
                   {"malformed", run.malformed},
                   {"surplus_events", run.surplus_events},
                   {"metrics", states}};
  if (comparison.steps) out["steps"] = step_evidence_json(*comparison.steps);
  return out;
}

std::string endpoint_text(const EndpointComparison& comparison, const EndpointRun& run) {
  std::string out = std::to_string(count(run, RequestStatus::completed)) + " of " +
                    std::to_string(run.records.size()) + " requests completed by " + run.model +
                    "; at most " + std::to_string(run.most_streams) + " at once\n";
  if (const std::string error = first_error(run); !error.empty())
    out += "first that was not: " + error + "\n";
  out += comparison_text(comparison.compared);
  out += "client      lateness p99 " + human_seconds(static_cast<double>(run.lateness.p99) * 1e-9) +
         ", event loop p99 " + human_seconds(static_cast<double>(run.loop_lag.p99) * 1e-9) +
         (run.late() ? ": LATE, the figures are the client's as much as the server's" : "") + "\n";
  if (comparison.steps) out += step_evidence_text(*comparison.steps);
  return out + "verdict     " + comparison.verdict +
         (comparison.missed.empty() ? "" : ": " + join(comparison.missed, ", ")) + "\n";
}

std::string measured_csv(const EndpointRun& run) {
  std::string out = measured_csv_header;
  const auto seconds = [](std::int64_t ns) { return format_nanoseconds_as_seconds(ns); };
  for (const EndpointRecord& r : run.records) {
    out += std::to_string(r.request) + "," + seconds(r.intended) + "," + seconds(r.sent) + "," +
           (r.first < 0 ? "" : seconds(r.first - r.intended)) + "," +
           (r.last < 0 ? "" : seconds(r.last - r.intended)) + "," + std::to_string(r.prompt_tokens) + "," +
           std::to_string(r.output_tokens) + "," + std::to_string(r.events) + "," + std::to_string(r.tries) +
           "," + to_string(r.status) + "\n";
  }
  return out;
}

}  // namespace orrery
