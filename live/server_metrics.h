// What the mock server says of itself at /metrics: Prometheus text under vLLM's names, labels and buckets
// (vllm/v1/metrics/loggers.py, PrometheusStatLogger), so that what scrapes vLLM can scrape it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace orrery {

class MetricHistogram {
 public:
  explicit MetricHistogram(std::vector<double> bounds)
      : bounds_(std::move(bounds)), counts_(bounds_.size()) {}
  void observe(double seconds, std::uint64_t times = 1);
  std::string text(const std::string& name, const std::string& help, const std::string& labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::uint64_t> counts_;  // of values up to each bound and above the one before
  std::uint64_t count_ = 0;
  double sum_ = 0;
};

struct ServerMetrics {
  ServerMetrics();
  struct Engine {
    std::int32_t running = 0, waiting = 0;
    double kv_usage = 0;
  };
  std::vector<Engine> engines;
  std::int64_t block_size = 0, kv_blocks = 0;
  std::uint64_t prompt_tokens = 0, generation_tokens = 0, preemptions = 0, queried_tokens = 0, hit_tokens = 0,
                finished = 0, aborted = 0;
  MetricHistogram ttft, inter_token, e2e;
  std::string text(const std::string& model) const;
};

}  // namespace orrery
