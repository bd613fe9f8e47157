#include "reports/casebook/published/published_metric.h"

#include <array>

namespace orrery {

namespace {

using Statistic = BenchmarkMetric::Statistic;

enum class Scale : std::uint8_t {
  as_is,
  per_gpu,  // times the GPUs
  speed     // tokens per second of one stream → milliseconds a token
};

struct MetricRule {
  const char* name;
  const char* unit;  // the cell begins so
  const char* quantity;
  Statistic statistic;
  double percentile = 0;
  Scale scale = Scale::as_is;
};

constexpr std::array<const char*, 4> kLatencies = {"ttft", "tpot", "itl", "e2el"};
constexpr std::array<const char*, 4> kQuantities = {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"};

// A metric without a statistic is a mean: so are those of AIConfigurator's that stand in InferenceX too.
struct StatisticRule {
  const char* prefix;
  Statistic statistic;
  double percentile;
};
constexpr std::array<StatisticRule, 7> kStatistics = {{{"", Statistic::mean, 0},
                                                       {"mean_", Statistic::mean, 0},
                                                       {"median_", Statistic::percentile, 50},
                                                       {"p90_", Statistic::percentile, 90},
                                                       {"p95_", Statistic::percentile, 95},
                                                       {"p99_", Statistic::percentile, 99},
                                                       {"max_", Statistic::largest, 0}}};

constexpr const char* kInput = "throughput.input_tokens_per_s";
constexpr const char* kOutput = "throughput.output_tokens_per_s";
constexpr const char* kTotal = "throughput.total_tokens_per_s";
constexpr std::array<MetricRule, 12> kRules = {
    {{"output_tput", "tok/s", kOutput, Statistic::value},
     {"output_tput", "output tok/s", kOutput, Statistic::value},
     {"input_tput", "tok/s", kInput, Statistic::value},
     {"total_tput", "tok/s", kTotal, Statistic::value},
     {"total_tok_per_s", "tok/s", kTotal, Statistic::value},
     {"throughput", "tok/s", kTotal, Statistic::value},
     {"output_tput_per_gpu", "", kOutput, Statistic::value, 0, Scale::per_gpu},
     {"input_tput_per_gpu", "", kInput, Statistic::value, 0, Scale::per_gpu},
     {"tput_per_gpu", "", kTotal, Statistic::value, 0, Scale::per_gpu},
     {"mean_decode_speed_per_user", "tok/s", "tpot_ms", Statistic::mean, 0, Scale::speed},
     {"median_decode_speed_per_user", "tok/s", "tpot_ms", Statistic::percentile, 50, Scale::speed},
     {"latency", "s", "duration_s", Statistic::value}}};

}  // namespace

std::optional<BenchmarkMetric> published_metric(const FigureRow& row, std::int64_t gpus) {
  const std::string& name = row[FigureColumn::metric];
  const std::string& unit = row[FigureColumn::unit];
  BenchmarkMetric out;
  for (std::size_t i = 0; i < kLatencies.size(); ++i) {
    for (const StatisticRule& s : kStatistics) {
      if (name != std::string(s.prefix) + kLatencies[i]) continue;
      if (unit != "ms" && unit != "s") return std::nullopt;
      out.quantity = kQuantities[i];
      out.statistic = s.statistic;
      out.percentile = s.percentile;
      out.value = unit == "s" ? 1000 * row.value : row.value;
      return out;
    }
  }
  for (const MetricRule& rule : kRules) {
    if (name != rule.name || !unit.starts_with(rule.unit)) continue;
    out.quantity = rule.quantity;
    out.statistic = rule.statistic;
    out.percentile = rule.percentile;
    out.value = row.value;
    if (rule.scale == Scale::per_gpu) {
      if (gpus <= 0) return std::nullopt;
      out.value *= static_cast<double>(gpus);
    }
    if (rule.scale == Scale::speed) out.value = 1000 / row.value;
    return out;
  }
  return std::nullopt;
}

}  // namespace orrery
