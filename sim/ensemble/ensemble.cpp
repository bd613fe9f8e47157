#include "sim/ensemble/ensemble.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <thread>

#include "base/det_math.h"
#include "base/mutation.h"
#include "base/random.h"
#include "base/statistics.h"

namespace orrery {

PriceUncertainty price_uncertainty(const StepPricer& pricer, const InstanceSpec& instance) {
  PriceUncertainty u;
  // A step that touches every operator class of the model.
  const PrefillChunk chunk{.new_tokens = 512, .context = 0};
  const StepShape shape{
      .prefill = std::span(&chunk, 1), .decode_sequences = 64, .decode_context_tokens = 64 * 1024};
  for (const OpLine& line : pricer.explain(shape).ops) {
    double& error = u.op[static_cast<std::size_t>(line.op_class)];
    error = std::max(error, line.error);
  }
  u.host = instance.engine.interval_host_error;
  return u;
}

PriceScales draw_scales(const PriceUncertainty& uncertainty, std::uint64_t seed, std::uint64_t run) {
  RandomStream stream(seed, RandomPurpose::perturbation, run);
  PriceScales scales;
  // A class that most models lack is drawn last: theirs keep the draws that they had without it.
  constexpr auto last = static_cast<std::size_t>(OpClass::linear_attention);
  static_assert(last + 1 == op_class_count);
  for (std::size_t i = 0; i < last; ++i) scales.op[i] = stream.log_normal(0.0, uncertainty.op[i]);
  scales.host = stream.log_normal(0.0, uncertainty.host);
  scales.op[last] = stream.log_normal(0.0, uncertainty.op[last]);
  return scales;
}

std::vector<MetricInterval> metrics_of(const RunResult& run) {
  std::vector<MetricInterval> out;
  const auto add = [&](std::string name, double value) {
    out.push_back({.name = std::move(name), .nominal = value});
  };
  const auto distribution = [&](const std::string& name, const Distribution& d) {
    if (d.count == 0) return;
    add(name + ".mean", d.mean * 1e-6);
    add(name + ".p50", static_cast<double>(d.p50) * 1e-6);
    add(name + ".p90", static_cast<double>(d.p90) * 1e-6);
    add(name + ".p99", static_cast<double>(d.p99) * 1e-6);
  };
  distribution("ttft_ms", run.ttft);
  distribution("tpot_ms", run.tpot);
  distribution("itl_ms", run.itl);
  distribution("e2e_ms", run.e2e);
  const double span = (run.last_finish - run.measured_from).seconds();
  if (span > 0) {
    add("throughput.requests_per_s", static_cast<double>(run.completed) / span);
    add("throughput.output_tokens_per_s", static_cast<double>(run.output_tokens) / span);
  }
  if (run.has_slo) {
    const double all =
        static_cast<double>(run.completed + run.failed + run.rejected + run.timed_out + run.cancelled);
    add("goodput.attainment", all > 0 ? static_cast<double>(run.slo_met) / all : 0);
  }
  return out;
}

namespace {

// Of several pools the greatest: one draw scales a class of operators everywhere.
Result<PriceUncertainty> uncertainty_of(const Scenario& scenario) {
  PriceUncertainty all;
  for (const PoolSpec* pool : scenario.pools()) {
    ORRERY_TRY(pricer, StepPricer::create(pool->instance, scenario.what_if));
    const PriceUncertainty one = price_uncertainty(pricer, pool->instance);
    for (std::size_t i = 0; i < op_class_count; ++i) all.op[i] = std::max(all.op[i], one.op[i]);
    all.host = std::max(all.host, one.host);
  }
  return all;
}

}  // namespace

void set_bounds(MetricInterval& metric, std::vector<double> values) {
  values.push_back(metric.nominal);
  std::sort(values.begin(), values.end());
  metric.low = std::min(linear_percentile(values, 5), metric.nominal);
  metric.high = std::max(linear_percentile(values, 95), metric.nominal);
}

Result<Intervals> estimate_intervals(const Scenario& scenario, const EnsembleOptions& options) {
  return estimate_intervals(scenario, options, [&](const RunOptions& run) -> Result<RunMetrics> {
    ORRERY_TRY(result, run_scenario(scenario, run));
    return RunMetrics{metrics_of(result), result.completed + result.failed + result.rejected};
  });
}

Result<Intervals> estimate_intervals(const Scenario& scenario, const EnsembleOptions& options,
                                     const MeasureRun& measure) {
  ORRERY_TRY(uncertainty, uncertainty_of(scenario));
  const auto runs = static_cast<std::size_t>(options.runs) + 1;  // run 0 is nominal
  std::vector<std::optional<Result<RunMetrics>>> results(runs);
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stop{false};
  const auto work = [&] {
    for (std::size_t i = next++; i < runs && !stop; i = next++) {
      RunOptions run;
      run.limit_requests = options.limit_requests;
      if (i > 0)
        run.scales = draw_scales(uncertainty, scenario.seed,
                                 ORRERY_MUTANT(thread_seed_from_schedule) ? next.load() : i);
      run.keep_going = options.keep_going;
      results[i] = measure(run);
      if (!results[i]->ok()) stop = true;
    }
  };
  std::vector<std::jthread> pool;
  for (int t = 1; t < options.threads; ++t) pool.emplace_back(work);
  work();
  pool.clear();

  for (const auto& result : results) {
    if (result && !result->ok()) return result->errors();
  }
  Intervals out;
  out.runs = options.runs;
  out.requests = results[0]->value().requests;
  out.metrics = results[0]->value().metrics;
  for (std::size_t m = 0; m < out.metrics.size(); ++m) {
    std::vector<double> values;
    for (std::size_t i = 1; i < runs; ++i) {
      const auto& metrics = results[i]->value().metrics;
      if (m < metrics.size()) values.push_back(metrics[m].nominal);
    }
    set_bounds(out.metrics[m], values);
    out.samples.push_back(std::move(values));
  }
  return out;
}

}  // namespace orrery
