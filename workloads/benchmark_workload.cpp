#include "workloads/benchmark_workload.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/random.h"
#include "workloads/trace_reader.h"

namespace orrery {

namespace {

constexpr std::uint64_t kMostRequests = 10'000'000;  // drawn into memory

Error error_at(const BenchmarkResult& result, const char* key, std::string message) {
  return invalid_input(std::move(message), {result.path, result.line, 0}, key);
}

struct LengthSource {
  const char* list;         // key of the file's list
  const char* option;       // what to pass without
  std::int64_t given;       // what was passed
  std::int64_t random;      // SGLang's longest random length
  std::uint64_t total;      // of all requests
  const char* detail_flag;  // what makes the client write lists
};

// One length for all requests.
Result<std::int32_t> common_length(const BenchmarkResult& result, const LengthSource& from,
                                   std::vector<std::string>& notes) {
  const double mean = static_cast<double>(from.total) / static_cast<double>(result.completed);
  if (from.given > 0) {
    if (std::abs(static_cast<double>(from.given) - mean) > 0.01 * mean)
      notes.push_back(std::string(from.option) + " " + std::to_string(from.given) +
                      " is not the file's mean of " + format_fixed(mean, 1) + " tokens a request");
    return static_cast<std::int32_t>(from.given);
  }
  const auto longest = static_cast<std::uint64_t>(from.random);
  if (longest > 0 && longest <= static_cast<std::uint64_t>(kMaxTokens) &&
      from.total == longest * result.completed)
    return static_cast<std::int32_t>(longest);
  return error_at(result, from.list,
                  "the file has no lengths of single requests: pass " + std::string(from.option) +
                      " N (the mean of its " + std::to_string(result.completed) + " requests is " +
                      format_fixed(mean, 1) + " tokens), or run the benchmark with " + from.detail_flag);
}

Status set_lengths(const BenchmarkResult& result, const BenchmarkLengths& lengths, BenchmarkWorkload& out) {
  if (!result.requests.prompt_tokens.empty()) {
    if (lengths.input > 0 || lengths.output > 0)
      out.notes.emplace_back("the file says the length of every request; --input-len, --output-len unused");
    for (std::size_t i = 0; i < result.requests.prompt_tokens.size(); ++i) {
      TraceRequest request;
      request.prompt_tokens = result.requests.prompt_tokens[i];
      request.output_tokens = request.max_output_tokens = result.requests.output_tokens[i];
      out.requests.push_back(std::move(request));
    }
    return ok_status();
  }
  if (result.completed > kMostRequests)
    return error_at(result, "completed", "more than 10 million requests without their lengths");
  const char* flag = result.tool == BenchmarkResult::Tool::vllm ? "--save-detailed" : "--output-details";
  Errors errors;
  std::int32_t length[2] = {0, 0};
  const LengthSource sources[2] = {
      {"input_lens", "--input-len", lengths.input, result.random_input, result.input_tokens, flag},
      {"output_lens", "--output-len", lengths.output, result.random_output, result.output_tokens, flag}};
  for (int i = 0; i < 2; ++i) {
    const auto known = common_length(result, sources[i], out.notes);
    if (known.ok())
      length[i] = *known;
    else
      errors.insert(errors.end(), known.errors().begin(), known.errors().end());
  }
  if (!errors.empty()) return errors;
  TraceRequest request;
  request.prompt_tokens = length[0];
  request.output_tokens = request.max_output_tokens = length[1];
  out.requests.assign(result.completed, request);
  out.notes.push_back("every request has " + std::to_string(length[0]) + " + " + std::to_string(length[1]) +
                      " tokens");
  return ok_status();
}

// Seconds from the client's start.
std::vector<double> drawn_arrivals(const BenchmarkResult& result, std::size_t n, std::uint64_t seed) {
  const double rate = *result.request_rate, shape = result.burstiness;
  const bool vllm = result.tool == BenchmarkResult::Tool::vllm;
  std::vector<double> at(n);
  double now = 0;
  for (std::size_t i = 0; i < n; ++i) {
    RandomStream stream(seed, RandomPurpose::arrivals, i);
    if (vllm) {
      now += shape == 1 ? stream.exponential(1 / rate) : stream.gamma(shape, 1 / (rate * shape));
    } else if (i > 0) {
      now += stream.exponential(1 / rate);
    }
    at[i] = now;
  }
  if (vllm && now > 0) {
    const double stretch = static_cast<double>(n) / rate / now;
    for (double& t : at) t *= stretch;
  }
  return at;
}

std::vector<double> sent_times(const BenchmarkRequests& requests) {
  std::vector<double> at = requests.start_s;
  const double first = *std::min_element(at.begin(), at.end());
  for (double& t : at) t -= first;
  return at;
}

// Whether the limit on requests in flight, not the rate, decided when requests were sent.
bool limit_decided(const BenchmarkResult& result, std::size_t n) {
  if (result.max_concurrency == 0 || static_cast<std::size_t>(result.max_concurrency) >= n) return false;
  if (!result.request_rate) return false;
  if (std::isinf(*result.request_rate)) return true;
  if (!result.requests.start_s.empty()) return false;
  for (const BenchmarkMetric& m : result.metrics) {
    if (m.quantity == "throughput.requests_per_s") return m.value < 0.9 * *result.request_rate;
  }
  return false;
}

Result<std::vector<double>> arrivals(const BenchmarkResult& result, std::uint64_t seed,
                                     BenchmarkWorkload& out) {
  const std::size_t n = out.requests.size();
  const bool detailed = !result.requests.start_s.empty();
  const std::string limit = std::to_string(result.max_concurrency) + " in flight";
  if (limit_decided(result, n)) {
    out.concurrency = result.max_concurrency;
    out.notes.push_back("closed loop, " + limit);
    return detailed ? sent_times(result.requests) : std::vector<double>(n, 0.0);
  }
  if (detailed) {
    out.notes.emplace_back("requests arrive when the client sent them");
    if (result.max_concurrency > 0 && static_cast<std::size_t>(result.max_concurrency) < n)
      out.notes.push_back("with at most " + limit +
                          ", later requests waited for the measured server's answers");
    return sent_times(result.requests);
  }
  if (result.ramps)
    return error_at(result, "ramp_up_strategy",
                    "the rate changed during the run: run the benchmark with --save-detailed, which keeps "
                    "start_times");
  if (!result.request_rate)
    return error_at(result, "request_rate",
                    "requests came by a trace's time stamps, which are not in the file: give that trace to "
                    "`orrery simulate --trace`");
  if (std::isinf(*result.request_rate)) {
    out.notes.emplace_back("all requests arrive at once");
    return std::vector<double>(n, 0.0);
  }
  out.notes.push_back("arrivals drawn at " + format_number(*result.request_rate) + " requests/s, seed " +
                      std::to_string(seed) + "; another draw moves the tails");
  if (result.max_concurrency > 0 && static_cast<std::size_t>(result.max_concurrency) < n)
    out.notes.push_back("the limit of " + limit + " hardly mattered: 90 % of the rate was reached");
  return drawn_arrivals(result, n, seed);
}

}  // namespace

Result<BenchmarkWorkload> benchmark_workload(const BenchmarkResult& result, const BenchmarkLengths& lengths,
                                             std::uint64_t seed) {
  BenchmarkWorkload out;
  out.notes = result.notes;
  ORRERY_TRY_STATUS(set_lengths(result, lengths, out));
  ORRERY_TRY(at, arrivals(result, seed, out));
  for (std::size_t i = 0; i < at.size(); ++i) {
    if (!(at[i] * 1e3 <= kMaxTimestampMs))
      return error_at(result, result.requests.start_s.empty() ? "request_rate" : "start_times",
                      "the run would last more than " + format_number(kMaxTimestampMs) + " ms");
    out.requests[i].arrival = SimTime() + duration_from_seconds(at[i]);
  }
  std::stable_sort(out.requests.begin(), out.requests.end(),
                   [](const TraceRequest& a, const TraceRequest& b) { return a.arrival < b.arrival; });
  for (std::size_t i = 0; i < out.requests.size(); ++i) out.requests[i].index = i;
  return out;
}

}  // namespace orrery
