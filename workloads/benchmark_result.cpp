#include "workloads/benchmark_result.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "base/files.h"
#include "base/statistics.h"
#include "workloads/benchmark_json.h"

namespace orrery {

namespace {

using Statistic = BenchmarkMetric::Statistic;
using Tool = BenchmarkResult::Tool;

constexpr std::size_t kLineLimit = std::size_t{1} << 30;  // gaps of every token of every request in one line

// "p99.9_ttft_ms" and the like; nothing for another key.
std::optional<BenchmarkMetric> latency_metric(const std::string& key) {
  constexpr std::pair<const char*, const char*> quantities[] = {{"_ttft_ms", "ttft_ms"},
                                                                {"_tpot_ms", "tpot_ms"},
                                                                {"_itl_ms", "itl_ms"},
                                                                {"_e2el_ms", "e2e_ms"},
                                                                {"_e2e_latency_ms", "e2e_ms"}};
  for (const auto& [ending, quantity] : quantities) {
    if (!key.ends_with(ending)) continue;
    const std::string word = key.substr(0, key.size() - std::string_view(ending).size());
    BenchmarkMetric metric{.quantity = quantity, .key = key};
    if (word == "mean") {
      metric.statistic = Statistic::mean;
    } else if (word == "std") {
      metric.statistic = Statistic::deviation;
    } else if (word == "max") {
      metric.statistic = Statistic::largest;
    } else {
      metric.statistic = Statistic::percentile;
      const std::string digits = word == "median" ? "50" : word.starts_with("p") ? word.substr(1) : "";
      const char* end = digits.data() + digits.size();
      const auto read = std::from_chars(digits.data(), end, metric.percentile, std::chars_format::fixed);
      if (read.ec != std::errc() || read.ptr != end || !(metric.percentile >= 0 && metric.percentile <= 100))
        return std::nullopt;
    }
    return metric;
  }
  return std::nullopt;
}

std::optional<BenchmarkMetric> rate_metric(const std::string& key) {
  constexpr std::pair<const char*, const char*> names[] = {
      {"duration", "duration_s"},
      {"request_throughput", "throughput.requests_per_s"},
      {"input_throughput", "throughput.input_tokens_per_s"},
      {"output_throughput", "throughput.output_tokens_per_s"},
      {"total_token_throughput", "throughput.total_tokens_per_s"},  // vLLM
      {"total_throughput", "throughput.total_tokens_per_s"}};       // SGLang
  for (const auto& [name, quantity] : names) {
    if (key == name) return BenchmarkMetric{.quantity = quantity, .key = key};
  }
  return std::nullopt;
}

bool holds(const std::vector<BenchmarkMetric>& metrics, const BenchmarkMetric& wanted) {
  return std::any_of(metrics.begin(), metrics.end(),
                     [&](const BenchmarkMetric& m) { return m.name() == wanted.name(); });
}

// numpy's mean of an empty list is written as 0 by vLLM and as NaN by SGLang: a latency of exactly 0 was not
// measured (an endpoint that does not stream, answers of one token).
void read_metrics(BenchmarkJson& json, BenchmarkResult& result) {
  std::vector<std::string> unmeasured;
  for (const auto& [key, value] : json.root().items()) {
    std::optional<BenchmarkMetric> metric = latency_metric(key);
    if (!metric) metric = rate_metric(key);
    if (!metric) continue;
    const std::optional<double> number = json.number(key);
    metric->value = number.value_or(0);
    if (metric->value < 0) {
      json.fail(key, "expected a number from 0");
    } else if (metric->value == 0) {
      unmeasured.push_back(key);
    } else if (!holds(result.metrics, *metric)) {
      result.metrics.push_back(*metric);
    }
  }
  if (unmeasured.empty()) return;
  std::string note = "not measured (0 or NaN in the file):";
  for (const std::string& key : unmeasured) note += " " + key;
  result.notes.push_back(std::move(note));
}

void read_traffic(BenchmarkJson& json, BenchmarkResult& result) {
  const Json& root = json.root();
  if (json.has("request_rate")) {
    const Json& rate = root["request_rate"];
    if (BenchmarkJson::is_infinite(rate)) {
      result.request_rate = std::numeric_limits<double>::infinity();
    } else if (!(rate.is_string() && rate.get_ref<const std::string&>() == "trace")) {  // SGLang
      result.request_rate = json.number("request_rate");
      if (result.request_rate && !(*result.request_rate > 1e-9 && *result.request_rate < 1e9))
        json.fail("request_rate", "expected requests per second, more than 0");
    }
  }
  // vLLM's gaps are constant at an infinite burstiness; a gamma of shape 1e6 has a deviation of 0.1 %.
  if (json.has("burstiness")) {
    const bool constant = BenchmarkJson::is_infinite(root["burstiness"]);
    result.burstiness = constant ? 1e6 : json.number("burstiness").value_or(1);
    if (!(result.burstiness > 0 && result.burstiness <= 1e6)) json.fail("burstiness", "expected more than 0");
  }
  result.ramps = json.has("ramp_up_strategy");
  const std::uint64_t concurrency = json.count("max_concurrency").value_or(0);
  if (concurrency > 1'000'000'000) json.fail("max_concurrency", "expected at most 1000000000");
  result.max_concurrency = static_cast<std::int64_t>(concurrency);
}

void read_random_lengths(BenchmarkJson& json, BenchmarkResult& result) {
  if (result.tool != Tool::sglang || !json.text("dataset_name").starts_with("random")) return;
  result.random_input = static_cast<std::int64_t>(json.count("random_input_len").value_or(0));
  result.random_output = static_cast<std::int64_t>(json.count("random_output_len").value_or(0));
}

// Times to the first token plus all later gaps: vLLM's and SGLang's latency ends with the last gap.
std::vector<double> end_to_end(BenchmarkJson& json, std::size_t size) {
  std::vector<double> total = json.numbers("ttfts", size);
  if (total.empty() || !json.has("itls")) return {};
  const Json& itls = json.root()["itls"];
  if (!itls.is_array() || itls.size() != size) {
    json.fail("itls", "expected a list of lists of gaps, one a request, as in input_lens");
    return {};
  }
  for (std::size_t i = 0; i < size; ++i) {
    const bool is_list = itls[i].is_array();
    bool good = is_list && total[i] >= 0;
    if (is_list) {
      for (const Json& gap : itls[i]) {
        good = good && gap.is_number() && std::isfinite(gap.get<double>()) && gap.get<double>() >= 0;
        if (!good) break;
        total[i] += gap.get<double>();
      }
    }
    if (good) continue;
    json.fail("itls", "request " + std::to_string(i) + ": expected a list of seconds, none below 0");
    return {};
  }
  return total;
}

void read_requests(BenchmarkJson& json, BenchmarkResult& result) {
  const bool inputs = json.has("input_lens"), outputs = json.has("output_lens");
  if (!inputs && !outputs) return;
  for (const char* key : {"input_lens", "output_lens"}) {
    if (!json.has(key) || !json.root()[key].is_array() || json.root()[key].empty())
      return json.fail(key, "expected a list of lengths, beside the other of input_lens and output_lens");
  }
  const std::size_t size = json.root()["input_lens"].size();
  const std::vector<std::int32_t> prompt = json.lengths("input_lens", size),
                                  output = json.lengths("output_lens", size);
  const std::vector<double> start = json.numbers("start_times", size), e2e = end_to_end(json, size);
  const Json* errors = json.has("errors") ? &json.root()["errors"] : nullptr;
  if (errors != nullptr && (!errors->is_array() || errors->size() != size))
    json.fail("errors", "expected a list as long as input_lens");
  if (!json.errors().empty()) return;
  std::size_t left_out = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const bool failed = errors != nullptr && (*errors)[i].is_string() && (*errors)[i] != "";
    if (failed || prompt[i] == 0 || output[i] == 0) {
      ++left_out;
      continue;
    }
    result.requests.prompt_tokens.push_back(prompt[i]);
    result.requests.output_tokens.push_back(output[i]);
    if (!start.empty()) result.requests.start_s.push_back(start[i]);
    if (!e2e.empty()) result.requests.e2e_s.push_back(e2e[i]);
  }
  if (left_out > 0)
    result.notes.push_back(std::to_string(left_out) + " of " + std::to_string(size) +
                           " requests failed or have no tokens; they are left out of the workload");
  if (result.requests.prompt_tokens.empty()) json.fail("output_lens", "no request has been answered");
}

// vLLM prints end-to-end latencies only when asked (--percentile-metrics …,e2el); its lists hold them always.
void add_end_to_end(BenchmarkResult& result) {
  const bool given = std::any_of(result.metrics.begin(), result.metrics.end(),
                                 [](const BenchmarkMetric& m) { return m.quantity == "e2e_ms"; });
  std::vector<double> sorted = result.requests.e2e_s;
  if (given || sorted.empty()) return;
  std::sort(sorted.begin(), sorted.end());
  if (sorted.front() <= 0) return;
  result.metrics.push_back({"e2e_ms", Statistic::mean, 0, mean_of(sorted) * 1e3, ""});
  for (const double p : {50.0, 90.0, 99.0})
    result.metrics.push_back({"e2e_ms", Statistic::percentile, p, linear_percentile(sorted, p) * 1e3, ""});
  result.notes.emplace_back("e2e_ms is computed from ttfts and itls: the file has no summary of it");
}

Status read_totals(BenchmarkJson& json, BenchmarkResult& result) {
  for (const char* key : {"completed", "total_input_tokens", "duration"}) {
    if (!json.has(key)) json.fail(key, "the key is missing; every result of a finished run has it");
  }
  result.completed = json.count("completed").value_or(0);
  result.failed = json.count("failed").value_or(0);
  result.input_tokens = json.count("total_input_tokens").value_or(0);
  result.output_tokens = json.count("total_output_tokens").value_or(0);
  if (!json.errors().empty()) return json.errors();
  if (!json.has("total_output_tokens"))
    return json.error("total_output_tokens", "the key is missing; is this a benchmark of embeddings?");
  if (result.completed == 0)
    return json.error("completed", "no request was completed, so there is nothing to compare");
  if (result.failed > 0)
    result.notes.push_back(std::to_string(result.failed) + " requests failed at the server");
  return ok_status();
}

// A line is a run, unless somebody has laid the only object out over several.
Result<std::pair<std::string, int>> text_of_run(const std::string& path, std::int64_t run) {
  ORRERY_TRY(lines, LineReader::open(path, kLineLimit));
  std::vector<std::pair<std::string, int>> runs;
  std::string_view line;
  while (lines.next(line)) {
    if (line.find_first_not_of(" \t\r") != std::string_view::npos)
      runs.emplace_back(std::string(line), static_cast<int>(lines.line_number()));
  }
  if (lines.error() != nullptr) return *lines.error();
  if (runs.empty()) return invalid_input("the file is empty; expected a benchmark result", {path, 0, 0});
  const std::size_t last = runs.front().first.find_last_not_of(" \t\r");
  if (runs.size() > 1 && runs.front().first[last] != '}') {
    std::string whole;
    int at = runs.front().second;
    for (auto& [text, number] : runs) {
      whole.append(static_cast<std::size_t>(number - at), '\n').append(text);
      at = number;
    }
    runs.assign(1, {std::move(whole), runs.front().second});
  }
  const auto count = static_cast<std::int64_t>(runs.size());
  if (run == 0 && count > 1)
    return invalid_input(
        "the file holds " + std::to_string(count) + " runs; say which: --run 1 … " + std::to_string(count),
        {path, runs[1].second, 0});
  if (run > count)
    return invalid_input(
        "there is no run " + std::to_string(run) + "; the file holds " + std::to_string(count),
        {path, runs.back().second, 0});
  return std::move(runs[static_cast<std::size_t>(std::max<std::int64_t>(run, 1) - 1)]);
}

}  // namespace

const char* to_string(Tool tool) { return tool == Tool::vllm ? "vllm bench serve" : "sglang.bench_serving"; }

std::string BenchmarkMetric::name() const {
  switch (statistic) {
    case Statistic::value: return quantity;
    case Statistic::mean: return quantity + ".mean";
    case Statistic::deviation: return quantity + ".std";
    case Statistic::largest: return quantity + ".max";
    case Statistic::percentile: return quantity + ".p" + format_number(percentile);
  }
  return quantity;
}

Result<BenchmarkResult> read_benchmark(const std::string& path, std::int64_t run) {
  ORRERY_TRY(text, text_of_run(path, run));
  BenchmarkResult result;
  result.path = path;
  result.line = text.second;
  ORRERY_TRY(json, BenchmarkJson::parse(std::move(text.first), path, result.line));
  const bool vllm = json.has("total_token_throughput") || json.has("endpoint_type");
  const bool sglang = json.has("total_output_tokens_retokenized") || json.has("mean_e2e_latency_ms");
  if (!vllm && !sglang)
    return json.error("",
                      "this is no result that Orrery knows: expected `vllm bench serve --save-result` (with "
                      "total_token_throughput) or `sglang.bench_serving --output-file` (with "
                      "mean_e2e_latency_ms)");
  result.tool = vllm ? Tool::vllm : Tool::sglang;
  result.backend = json.text("backend");
  result.model = json.text("model_id");
  ORRERY_TRY_STATUS(read_totals(json, result));
  read_traffic(json, result);
  read_random_lengths(json, result);
  read_metrics(json, result);
  read_requests(json, result);
  if (!json.errors().empty()) return json.errors();
  add_end_to_end(result);
  return result;
}

}  // namespace orrery
