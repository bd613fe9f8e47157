#include "catch.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "reports/benchmark_comparison.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

struct Records final : RecordSink {
  void on_request(const RequestRecord& r) override { all.push_back(r); }
  std::vector<RequestRecord> all;
};

Scenario h200() {
  auto scenario = load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", {});
  REQUIRE(scenario.ok());
  return std::move(scenario).value();
}

std::vector<TraceRequest> requests() {
  std::vector<TraceRequest> out;
  for (std::int32_t i = 0; i < 60; ++i) {
    TraceRequest r;
    r.index = static_cast<std::uint64_t>(i);
    r.arrival = SimTime(std::int64_t{i} * i % 7 * 1'000'000 + std::int64_t{i} * 40'000'000);
    r.prompt_tokens = 100 + 53 * (i % 11);
    r.output_tokens = r.max_output_tokens = 2 + i % 37;
    out.push_back(r);
  }
  return out;
}

// Statistics written out by hand, not with base/statistics.
double percentile(std::vector<double> v, double p) {
  std::sort(v.begin(), v.end());
  const double rank = p / 100 * static_cast<double>(v.size() - 1), below = std::floor(rank);
  const double a = v[static_cast<std::size_t>(below)],
               b = v[std::min(v.size() - 1, static_cast<std::size_t>(below) + 1)];
  return a * (1 - (rank - below)) + b * (rank - below);
}

// What vllm bench serve would write had the simulation been its server; latencies times `factor`.
std::string as_vllm_writes(const std::vector<TraceRequest>& sent, const Records& records, double factor) {
  Json j = {{"backend", "openai"}, {"model_id", "m"}, {"request_rate", 25.0}, {"max_concurrency", nullptr}};
  std::vector<double> ttft, tpot, e2e;
  double end = 0;
  std::uint64_t in = 0, out = 0;
  for (std::size_t i = 0; i < sent.size(); ++i) {
    const RequestRecord& r = records.all[i];
    const double first = r.ttft.seconds() * factor, all = r.e2e.seconds() * factor;
    const int gaps = r.output_tokens - 1;
    j["input_lens"].push_back(r.prompt_tokens);
    j["output_lens"].push_back(r.output_tokens);
    j["start_times"].push_back(900.0 + sent[i].arrival.seconds());
    j["ttfts"].push_back(first);
    j["itls"].push_back(std::vector<double>(static_cast<std::size_t>(gaps), (all - first) / gaps));
    ttft.push_back(first * 1e3);
    tpot.push_back((all - first) / gaps * 1e3);
    e2e.push_back(all * 1e3);
    end = std::max(end, (r.arrival + r.e2e).seconds());
    in += static_cast<std::uint64_t>(r.prompt_tokens);
    out += static_cast<std::uint64_t>(r.output_tokens);
  }
  const auto n = static_cast<double>(sent.size());
  j["duration"] = end;
  j["completed"] = sent.size();
  j["total_input_tokens"] = in;
  j["total_output_tokens"] = out;
  j["request_throughput"] = n / end;
  j["output_throughput"] = static_cast<double>(out) / end;
  j["total_token_throughput"] = static_cast<double>(in + out) / end;
  for (const auto& [name, values] : {std::pair("ttft", &ttft), std::pair("tpot", &tpot)}) {
    double sum = 0;
    for (const double v : *values) sum += v;
    j["mean_" + std::string(name) + "_ms"] = sum / n;
    j["median_" + std::string(name) + "_ms"] = percentile(*values, 50);
    j["p99_" + std::string(name) + "_ms"] = percentile(*values, 99);
  }
  return j.dump();
}

BenchmarkComparison compare(const std::string& text, int runs) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("orrery-benchmark-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "result.json").string();
  std::ofstream(path) << text;
  const auto result = read_benchmark(path);
  std::filesystem::remove_all(folder);
  REQUIRE(result.ok());
  const auto workload = benchmark_workload(*result, {}, 1);
  REQUIRE(workload.ok());
  const auto comparison = compare_with_benchmark(h200(), *result, *workload, {.runs = runs});
  REQUIRE(comparison.ok());
  return *comparison;
}

}  // namespace

TEST_CASE("a result written from a simulation is predicted exactly; one twice as slow is not") {
  const std::vector<TraceRequest> sent = requests();
  Scenario scenario = h200();
  scenario.workload = {};
  scenario.workload.requests = std::make_shared<const std::vector<TraceRequest>>(sent);
  Records records;
  RunOptions options;
  options.sink = &records;
  REQUIRE(run_scenario(scenario, options).ok());
  REQUIRE(records.all.size() == sent.size());

  const BenchmarkComparison same = compare(as_vllm_writes(sent, records, 1), 4);
  // duration, three throughputs; ttft and tpot: mean, p50, p99; e2e from the lists: mean, p50, p90, p99
  REQUIRE(same.metrics.size() == 14);
  for (const ComparedMetric& m : same.metrics) {
    INFO(m.name << " " << m.predicted << " " << m.measured);
    CHECK(std::abs(m.error_percent()) < 1e-6);
    CHECK(m.low <= m.predicted);
    CHECK(m.predicted <= m.high);
    CHECK(m.low < m.high);
  }
  const BenchmarkComparison slow = compare(as_vllm_writes(sent, records, 2), 4);
  for (const ComparedMetric& m : slow.metrics) {
    if (!m.name.starts_with("ttft") && !m.name.starts_with("tpot")) continue;
    CHECK(std::abs(m.error_percent() + 50) < 1e-6);
    CHECK_FALSE(m.inside());
  }
  const Json json = comparison_json(slow);
  REQUIRE(json.contains("ttft_ms.p99"));
  for (const char* key : {"predicted", "low", "high", "measured", "error_percent", "inside"})
    CHECK(json["ttft_ms.p99"].contains(key));
  CHECK(comparison_json(compare(as_vllm_writes(sent, records, 1), 0))["duration_s"]["inside"].is_null());
}
