#include "catch.h"

#include <cmath>
#include <fstream>

#include "base/random.h"
#include "base/statistics.h"
#include "support.h"
#include "workloads/benchmark_workload.h"

using namespace orrery;
using namespace orrery::test;

namespace {

const BenchmarkMetric* find(const BenchmarkResult& result, const std::string& name) {
  for (const BenchmarkMetric& m : result.metrics) {
    if (m.name() == name) return &m;
  }
  return nullptr;
}

double value_of(const BenchmarkResult& result, const std::string& name) {
  const BenchmarkMetric* metric = find(result, name);
  INFO(name);
  REQUIRE(metric != nullptr);
  return metric->value;
}

bool near(double a, double b) { return std::abs(a - b) < 1e-9 * (1 + std::abs(b)); }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

Errors errors_of(const TempFolder& folder, const std::string& text) {
  const auto result = read_benchmark(folder.write("x.json", text));
  REQUIRE_FALSE(result.ok());
  return result.errors();
}

}  // namespace

TEST_CASE("percentiles are numpy's: numpy.percentile([1, 2, 3, 10], …)") {
  const std::vector<double> v = {1, 2, 3, 10};
  CHECK(linear_percentile(v, 0) == 1);
  CHECK(linear_percentile(v, 50) == 2.5);
  CHECK(near(linear_percentile(v, 90), 7.9));
  CHECK(linear_percentile(v, 100) == 10);
  CHECK(linear_percentile({7}, 99) == 7);
  CHECK(mean_of(v) == 4);
  CHECK(near(deviation_of(v), std::sqrt(12.5)));  // numpy.std: divided by n, not n − 1
}

TEST_CASE("a detailed result of vllm bench serve") {
  const auto result = read_benchmark(fixture("vllm_bench_detailed.json"));
  REQUIRE(result.ok());
  CHECK(result->tool == BenchmarkResult::Tool::vllm);
  CHECK(result->model == "Qwen/Qwen3-8B");
  CHECK(result->completed == 3);
  CHECK(result->requests.prompt_tokens == std::vector<std::int32_t>{100, 200, 300});  // without the failed
                                                                                      // one
  CHECK(value_of(*result, "ttft_ms.p50") == 200);
  CHECK(value_of(*result, "itl_ms.p99.9") == 29.95);
  CHECK(value_of(*result, "throughput.total_tokens_per_s") == 406);
  CHECK(value_of(*result, "duration_s") == 1.5);
  // Not in the file (--percentile-metrics has no e2el): from its lists, 140, 230 and 330 ms.
  CHECK(near(value_of(*result, "e2e_ms.mean"), 700.0 / 3));
  CHECK(near(value_of(*result, "e2e_ms.p90"), 310));
  CHECK(near(value_of(*result, "e2e_ms.p99"), 328));

  const auto workload = benchmark_workload(*result, {}, 1);
  REQUIRE(workload.ok());
  REQUIRE(workload->requests.size() == 3);
  CHECK(workload->concurrency == 0);
  CHECK(workload->requests[1].arrival == SimTime(500'000'000));
  CHECK(workload->requests[2].arrival == SimTime(1'000'000'000));
  CHECK(workload->requests[2].output_tokens == 4);
}

TEST_CASE("a result of sglang.bench_serving: several runs, Python's Infinity and NaN") {
  const std::string path = fixture("sglang_bench.jsonl");
  const auto unnamed = read_benchmark(path);
  REQUIRE_FALSE(unnamed.ok());
  CHECK(contains(unnamed.errors()[0].message, "--run 1 … 2"));
  CHECK_FALSE(read_benchmark(path, 3).ok());

  const auto first = read_benchmark(path, 1);
  REQUIRE(first.ok());
  CHECK(first->tool == BenchmarkResult::Tool::sglang);
  CHECK(std::isinf(first->request_rate.value()));
  CHECK(value_of(*first, "e2e_ms.p99") == 990);
  CHECK(value_of(*first, "throughput.total_tokens_per_s") == 2176);
  // Totals of 8 × 1024 and 8 × 64: the random lengths were all equal, so nothing need be passed.
  const auto closed = benchmark_workload(*first, {}, 1);
  REQUIRE(closed.ok());
  CHECK(closed->concurrency == 2);
  REQUIRE(closed->requests.size() == 8);
  CHECK(closed->requests[7].prompt_tokens == 1024);
  CHECK(closed->requests[7].output_tokens == 64);

  const auto second = read_benchmark(path, 2);
  REQUIRE(second.ok());
  CHECK(find(*second, "tpot_ms.mean") == nullptr);  // NaN: not measured
  const auto unknown = benchmark_workload(*second, {}, 1);
  REQUIRE(unknown.errors().size() == 2);
  CHECK(unknown.errors()[0].where.line == 2);
  CHECK(contains(unknown.errors()[0].message, "--input-len N"));
  CHECK(contains(unknown.errors()[0].message, "300.0"));
  CHECK(contains(unknown.errors()[1].message, "--output-len N"));
  const auto given = benchmark_workload(*second, {.input = 300, .output = 150}, 1);
  REQUIRE(given.ok());
  CHECK(given->requests.size() == 10);
}

TEST_CASE("drawn arrivals follow the client's own rule") {
  BenchmarkResult result;
  result.completed = 4000;
  result.input_tokens = result.output_tokens = 40000;
  result.request_rate = 8.0;
  const BenchmarkLengths lengths{.input = 10, .output = 10};
  // vLLM stretches the gaps so that the last request goes out at n ÷ rate exactly; the first waits a gap.
  for (const double burstiness : {1.0, 0.25, 16.0}) {
    result.burstiness = burstiness;
    const auto drawn = benchmark_workload(result, lengths, 7);
    REQUIRE(drawn.ok());
    CHECK(drawn->requests.back().arrival == SimTime(500'000'000'000));
    CHECK(drawn->requests.front().arrival > SimTime(0));
    double squares = 0;
    for (std::size_t i = 1; i < drawn->requests.size(); ++i) {
      const double gap = (drawn->requests[i].arrival - drawn->requests[i - 1].arrival).seconds() * 8;
      squares += (gap - 1) * (gap - 1);
    }
    const double variance = squares / 3999;  // of gamma gaps of mean 1: 1 ÷ shape
    CHECK(variance > 0.85 / burstiness);
    CHECK(variance < 1.15 / burstiness);
    CHECK(benchmark_workload(result, lengths, 7)->requests[5].arrival == drawn->requests[5].arrival);
    CHECK(benchmark_workload(result, lengths, 8)->requests[5].arrival != drawn->requests[5].arrival);
  }
  result.tool = BenchmarkResult::Tool::sglang;
  CHECK(benchmark_workload(result, lengths, 7)->requests.front().arrival == SimTime(0));
}

TEST_CASE("a limit on requests in flight becomes a closed loop only when it decided") {
  BenchmarkResult result;
  result.completed = 100;
  result.input_tokens = result.output_tokens = 1000;
  result.max_concurrency = 8;
  result.request_rate = 10.0;
  const BenchmarkLengths lengths{.input = 10, .output = 10};
  result.metrics = {{"throughput.requests_per_s", BenchmarkMetric::Statistic::value, 0, 5.0, ""}};
  CHECK(benchmark_workload(result, lengths, 1)->concurrency == 8);
  result.metrics[0].value = 9.8;
  CHECK(benchmark_workload(result, lengths, 1)->concurrency == 0);
  result.request_rate = INFINITY;
  CHECK(benchmark_workload(result, lengths, 1)->concurrency == 8);
  result.max_concurrency = 100;
  CHECK(benchmark_workload(result, lengths, 1)->concurrency == 0);
}

TEST_CASE("what a file cannot tell is an error that says what would") {
  BenchmarkResult result;
  result.completed = 10;
  result.input_tokens = result.output_tokens = 100;
  result.request_rate = 2.0;
  result.ramps = true;
  const BenchmarkLengths lengths{.input = 10, .output = 10};
  CHECK(contains(benchmark_workload(result, lengths, 1).errors()[0].message, "--save-detailed"));
  result.ramps = false;
  result.request_rate.reset();
  CHECK(contains(benchmark_workload(result, lengths, 1).errors()[0].message, "--trace"));
}

TEST_CASE("malformed results: one located error") {
  const TempFolder folder;
  const std::string good = read_bytes(fixture("vllm_bench_detailed.json"));
  const Errors missing = errors_of(folder, replaced(good, "\"completed\": 3, ", ""));
  CHECK(missing[0].key == "completed");
  const Errors type =
      errors_of(folder, replaced(good, "\"mean_ttft_ms\": 200.0", "\"mean_ttft_ms\": \"fast\""));
  CHECK(type[0].key == "mean_ttft_ms");
  CHECK(type[0].where.column == static_cast<int>(good.find("\"mean_ttft_ms\"")) + 1);
  CHECK(errors_of(folder, replaced(good, "[3, 2, 0, 4]", "[3, 2, 4]"))[0].key == "output_lens");
  CHECK(errors_of(folder, replaced(good, "[3, 2, 0, 4]", "[3, 2.5, 0, 4]"))[0].key == "output_lens");
  CHECK(errors_of(folder, replaced(good, "[0.03]", "[-0.03]"))[0].key == "itls");
  CHECK(errors_of(folder, replaced(good, "5010.5", "NaN"))[0].key == "start_times");
  CHECK(errors_of(folder, replaced(good, "\"completed\": 3", "\"completed\": 0"))[0].key == "completed");
  CHECK(errors_of(folder, replaced(good, "\"request_rate\": 2.0", "\"request_rate\": -2"))[0].key ==
        "request_rate");
  CHECK(contains(errors_of(folder, "{\"timestamp\": 0}\n")[0].message, "vllm bench serve"));
  CHECK(contains(errors_of(folder, "")[0].message, "empty"));
  CHECK(contains(errors_of(folder, "[1]")[0].message, "object"));
  // Laid out over several lines it is the same file, and places are still right.
  std::string laid_out = replaced(good, "\"duration\"", "\n\n\"duration\"");
  laid_out = replaced(laid_out, "{\"date\"", "{\n\"date\"");
  CHECK(read_benchmark(folder.write("y.json", laid_out)).ok());
  CHECK(errors_of(folder, replaced(laid_out, "\"duration\": 1.5", "\"duration\": true"))[0].where.line == 4);
}

TEST_CASE("damaged results never crash, and every error has a place") {
  const TempFolder folder;
  const std::string sources[] = {read_bytes(fixture("vllm_bench_detailed.json")),
                                 read_bytes(fixture("sglang_bench.jsonl"))};
  const std::string tokens[] = {"null", "-1", "1e999", "NaN", "\"x\"", "[]", "{}", "99999999999999999999"};
  std::size_t refused = 0, read = 0;
  for (std::uint64_t round = 0; round < 1500; ++round) {
    RandomStream random(11, RandomPurpose::property_test, round);
    std::string text = sources[round % 2];
    for (std::uint64_t edits = 1 + random.below(3); edits > 0; --edits) {
      const std::size_t at = random.below(text.size());
      switch (random.below(4)) {
        case 0: text[at] = static_cast<char>(random.below(256)); break;
        case 1: text.erase(at, 1 + random.below(20)); break;
        case 2: text.insert(at, tokens[random.below(8)]); break;
        case 3: {  // another value for a key
          const std::size_t colon = text.find(": ", at), end = text.find(", \"", at);
          if (colon != std::string::npos && end != std::string::npos && colon < end)
            text.replace(colon + 2, end - colon - 2, tokens[random.below(8)]);
          break;
        }
      }
      if (text.empty()) text = "{";
    }
    const std::string path = folder.write("damaged.json", text);
    const auto result = read_benchmark(path, 1);
    Errors errors;
    if (result.ok()) {
      // A damaged count of millions is legitimate, and dear.
      if (result->completed < 100'000) {
        const auto workload = benchmark_workload(*result, {.input = 10, .output = 10}, 1);
        if (!workload.ok()) errors = workload.errors();
      }
      ++read;
    } else {
      errors = result.errors();
      ++refused;
    }
    for (const Error& e : errors) {
      INFO(text);
      CHECK(e.where.file == path);
      CHECK_FALSE(e.message.empty());
    }
  }
  CHECK(refused > 300);
  CHECK(read > 300);
}
