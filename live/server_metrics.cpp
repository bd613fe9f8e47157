#include "live/server_metrics.h"

#include <algorithm>

#include "base/json.h"

namespace orrery {

namespace {

std::string head(const std::string& name, const std::string& help, const char* type) {
  return "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

std::string line(const std::string& name, const std::string& labels, double value) {
  return name + "{" + labels + "} " + format_number(value) + "\n";
}

}  // namespace

void MetricHistogram::observe(double seconds, std::uint64_t times) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), seconds);
  if (bound != bounds_.end()) counts_[static_cast<std::size_t>(bound - bounds_.begin())] += times;
  count_ += times;
  sum_ += seconds * static_cast<double>(times);
}

std::string MetricHistogram::text(const std::string& name, const std::string& help,
                                  const std::string& labels) const {
  std::string out = head(name, help, "histogram");
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < bounds_.size(); ++i) {
    below += counts_[i];
    out += line(name + "_bucket", labels + ",le=\"" + format_number(bounds_[i]) + "\"",
                static_cast<double>(below));
  }
  out += line(name + "_bucket", labels + ",le=\"+Inf\"", static_cast<double>(count_));
  out += line(name + "_sum", labels, sum_);
  return out + line(name + "_count", labels, static_cast<double>(count_));
}

ServerMetrics::ServerMetrics()
    : ttft({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
            1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0}),
      inter_token({0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
                   20.0, 40.0, 80.0}),
      e2e({0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
           30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0}) {}

std::string ServerMetrics::text(const std::string& model) const {
  const std::string name = "model_name=" + Json(model).dump();
  const std::string first = name + ",engine=\"0\"";
  std::string out;
  const auto gauge = [&](const char* metric, const char* help, auto value) {
    out += head(metric, help, "gauge");
    for (std::size_t i = 0; i < engines.size(); ++i)
      out += line(metric, name + ",engine=\"" + std::to_string(i) + "\"",
                  static_cast<double>(value(engines[i])));
  };
  const auto counter = [&](const std::string& metric, const char* help, std::uint64_t value) {
    out += head(metric, help, "counter") + line(metric + "_total", first, static_cast<double>(value));
  };
  gauge("vllm:num_requests_running", "Number of requests in model execution batches.",
        [](const Engine& e) { return e.running; });
  gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.",
        [](const Engine& e) { return e.waiting; });
  gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.",
        [](const Engine& e) { return e.kv_usage; });
  counter("vllm:prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.",
          queried_tokens);
  counter("vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", hit_tokens);
  counter("vllm:num_preemptions", "Cumulative number of preemption from the engine.", preemptions);
  counter("vllm:prompt_tokens", "Number of prefill tokens processed.", prompt_tokens);
  counter("vllm:generation_tokens", "Number of generation tokens processed.", generation_tokens);
  out += head("vllm:request_success", "Count of successfully processed requests.", "counter");
  out += line("vllm:request_success_total", first + ",finished_reason=\"length\"",
              static_cast<double>(finished));
  out +=
      line("vllm:request_success_total", first + ",finished_reason=\"abort\"", static_cast<double>(aborted));
  out += ttft.text("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", first);
  out += inter_token.text("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.",
                          first);
  out += e2e.text("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", first);
  out += head("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge");
  return out + line("vllm:cache_config_info",
                    "block_size=\"" + std::to_string(block_size) + "\",num_gpu_blocks=\"" +
                        std::to_string(kv_blocks) + "\",engine=\"0\"",
                    1);
}

}  // namespace orrery
