// The result file of `vllm bench serve --save-result --save-detailed`: one JSON object that holds all
// requests in parallel lists. Read whole, since the format cannot be streamed.
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/text.h"
#include "workloads/readers/line_trace.h"

namespace orrery {

namespace {

class VllmBenchSource final : public TraceReader {
 public:
  explicit VllmBenchSource(std::vector<TraceRequest> requests) : requests_(std::move(requests)) {}
  bool next(TraceRequest& request) override {
    if (position_ == requests_.size()) return false;
    request = requests_[position_++];
    return true;
  }
  const Error* error() const override { return nullptr; }
  std::uint64_t size_hint() const override { return requests_.size(); }
  const char* format() const override { return "vLLM benchmark result"; }

 private:
  std::vector<TraceRequest> requests_;
  std::size_t position_ = 0;
};

Error missing(const std::string& path, const char* key, const std::string& why) {
  return invalid_input(why, SourceLocation{path, 1, 0}, key);
}

// Seconds from the first submission, one per request. Without time stamps only an infinite rate says when
// requests were sent: all at once.
Result<std::vector<double>> arrival_seconds(const std::string& path, const Json& result, std::size_t count) {
  std::vector<double> seconds(count, 0.0);
  if (result.contains("start_times")) {
    const Json& starts = result["start_times"];
    if (!starts.is_array() || starts.size() != count) {
      return missing(path, "start_times", "expected a list as long as input_lens");
    }
    double first = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (!starts[i].is_number()) return missing(path, "start_times", "expected numbers (seconds)");
      seconds[i] = starts[i].get<double>();
      first = i == 0 ? seconds[i] : std::min(first, seconds[i]);
    }
    for (double& s : seconds) s -= first;
    return seconds;
  }
  const bool all_at_once = result.contains("request_rate") && result["request_rate"] == "inf";
  if (!all_at_once) {
    return missing(path, "start_times",
                   "the file has no time stamps and its request_rate is not \"inf\", so nobody can "
                   "say when its requests arrived; describe the same load with `generator:` instead");
  }
  return seconds;
}

}  // namespace

bool looks_like_vllm_bench(std::string_view first_line) {
  const auto has = [&](const char* key) { return first_line.find(key) != std::string_view::npos; };
  return has("\"input_lens\"") || (has("\"request_throughput\"") && has("\"num_prompts\""));
}

Result<std::unique_ptr<TraceReader>> make_vllm_bench_reader(const std::string& path,
                                                            const std::string& text) {
  ORRERY_TRY(result, parse_json(text, path));
  for (const char* key : {"input_lens", "output_lens"}) {
    if (!result.contains(key) || !result[key].is_array()) {
      return missing(path, key,
                     "the list is missing; run `vllm bench serve` with --save-result --save-detailed");
    }
  }
  const Json& inputs = result["input_lens"];
  const Json& outputs = result["output_lens"];
  if (inputs.size() != outputs.size() || inputs.empty()) {
    return missing(path, "output_lens", "expected a list as long as input_lens, with at least one request");
  }
  ORRERY_TRY(seconds, arrival_seconds(path, result, inputs.size()));
  std::vector<TraceRequest> requests(inputs.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    for (const Json* length : {&inputs[i], &outputs[i]}) {
      if (!length->is_number_integer() || length->get<std::int64_t>() < 1 ||
          length->get<std::int64_t>() > kMaxTokens) {
        return missing(path, length == &inputs[i] ? "input_lens" : "output_lens",
                       "request " + std::to_string(i) +
                           ": expected a whole number of tokens of at least 1, found " + length->dump() +
                           " (a request that failed?); leave it out of both lists");
      }
    }
    if (!(seconds[i] * 1e3 <= kMaxTimestampMs))
      return missing(path, "start_times", "a time stamp is too large");
    requests[i].arrival = SimTime() + duration_from_seconds(seconds[i]);
    requests[i].prompt_tokens = inputs[i].get<std::int32_t>();
    requests[i].output_tokens = outputs[i].get<std::int32_t>();
    requests[i].max_output_tokens = requests[i].output_tokens;
  }
  std::stable_sort(requests.begin(), requests.end(),
                   [](const TraceRequest& a, const TraceRequest& b) { return a.arrival < b.arrival; });
  for (std::size_t i = 0; i < requests.size(); ++i) requests[i].index = i;
  return std::unique_ptr<TraceReader>(std::make_unique<VllmBenchSource>(std::move(requests)));
}

}  // namespace orrery
