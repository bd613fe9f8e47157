// What a benchmark client wrote about a server: the result of `vllm bench serve --save-result` (keys of
// vllm/benchmarks/serve.py, 0.24.0) or of `python -m sglang.bench_serving --output-file` (keys of
// python/sglang/bench_serving.py). Either appends runs to one file, a JSON object a line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace orrery {

// One figure of the client, named as summary.json names it: "ttft_ms.p99", "throughput.requests_per_s".
struct BenchmarkMetric {
  enum class Statistic { value, mean, deviation, percentile, largest };

  std::string quantity;  // ttft_ms, tpot_ms, itl_ms, e2e_ms; throughput.…, duration_s
  Statistic statistic = Statistic::value;
  double percentile = 0;  // 0 … 100, of Statistic::percentile; numpy's linear interpolation
  double value = 0;
  std::string key;  // in the file; empty: computed here from the file's lists
  std::string name() const;
};

// Requests as the client sent them; only with --save-detailed (vLLM) or --output-details (SGLang). Those that
// failed are left out. Lists are as long as `prompt_tokens`, or empty.
struct BenchmarkRequests {
  std::vector<std::int32_t> prompt_tokens, output_tokens;
  std::vector<double> start_s;  // when it was really sent (vLLM); the origin means nothing
  std::vector<double> e2e_s;    // time to the first token plus all gaps
};

struct BenchmarkResult {
  enum class Tool { vllm, sglang };

  std::string path;
  int line = 1;  // of the run in the file
  Tool tool = Tool::vllm;
  std::string backend, model;  // as the client said; empty when it did not
  // Requests per second that the client aimed at; infinity: all at once. Nothing: by a trace's time stamps.
  std::optional<double> request_rate;
  double burstiness = 1;             // shape of the gamma gaps; 1 = Poisson
  bool ramps = false;                // the rate changed during the run
  std::int64_t max_concurrency = 0;  // requests in flight at most; 0 = any number
  std::uint64_t completed = 0, failed = 0;
  std::uint64_t input_tokens = 0, output_tokens = 0;  // of all completed requests
  std::int64_t random_input = 0, random_output = 0;   // SGLang's random data sets: the longest; 0 = not those
  BenchmarkRequests requests;
  std::vector<BenchmarkMetric> metrics;  // in the file's order; those that are zero were not measured
  std::vector<std::string> notes;        // what was left out and why, for people
};
const char* to_string(BenchmarkResult::Tool tool);

// `run` counts from 1; 0 takes the only run of the file. Plain, .gz or .zst. Errors: no such file, not JSON,
// no known client's keys, a value of a wrong type, nothing completed; each with line, column and key.
Result<BenchmarkResult> read_benchmark(const std::string& path, std::int64_t run = 0);

}  // namespace orrery
