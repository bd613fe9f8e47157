// Results do not depend on the number of threads, nor on which of them took which run.
#include <atomic>

#include "catch.h"
#include "sim/ensemble/ensemble.h"

using namespace orrery;

namespace {

Scenario small_scenario() {
  ScenarioOptions options;
  options.overrides = {"workload.limit={requests: 150}", "deployment.replicas=2"};
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
}

}  // namespace

TEST_CASE("intervals are the same with one, two and five threads [threads]") {
  const Scenario scenario = small_scenario();
  const Intervals one = estimate_intervals(scenario, {.runs = 12, .threads = 1}).value();
  for (const int threads : {2, 5}) {
    const Intervals more = estimate_intervals(scenario, {.runs = 12, .threads = threads}).value();
    REQUIRE(more.metrics.size() == one.metrics.size());
    for (std::size_t i = 0; i < one.metrics.size(); ++i) {
      CAPTURE(one.metrics[i].name);
      CHECK(more.metrics[i].low == one.metrics[i].low);
      CHECK(more.metrics[i].high == one.metrics[i].high);
    }
  }
}

TEST_CASE("each paired run is the one that its number names [threads]") {
  const Scenario scenario = small_scenario();
  const auto pricer = StepPricer::create(scenario.pool.instance, scenario.what_if).value();
  const PriceUncertainty uncertainty = price_uncertainty(pricer, scenario.pool.instance);
  // With two paired runs the interval is made of three known values.
  const Intervals two = estimate_intervals(scenario, {.runs = 2, .threads = 2}).value();
  std::vector<double> ttft = {metrics_of(run_scenario(scenario).value())[0].nominal};
  for (std::uint64_t run = 1; run <= 2; ++run) {
    RunOptions options;
    options.scales = draw_scales(uncertainty, scenario.seed, run);
    ttft.push_back(metrics_of(run_scenario(scenario, options).value())[0].nominal);
  }
  const double nominal = ttft[0];
  std::sort(ttft.begin(), ttft.end());
  REQUIRE(two.metrics[0].name == "ttft_ms.mean");
  CHECK(two.metrics[0].low == Approx(std::min(nominal, ttft[0] + 0.1 * (ttft[1] - ttft[0]))).epsilon(1e-12));
  CHECK(two.metrics[0].high == Approx(std::max(nominal, ttft[1] + 0.9 * (ttft[2] - ttft[1]))).epsilon(1e-12));
  CHECK(two.metrics[0].low < two.metrics[0].high);
}

// Each run is far shorter than the events between two questions of one run.
TEST_CASE("an interrupt ends many short runs [threads]") {
  for (const int threads : {1, 3}) {
    std::atomic<int> asked{0};
    EnsembleOptions options{.runs = 1000, .threads = threads};
    options.keep_going = [&](std::uint64_t) { return ++asked <= 5; };
    const auto cut = estimate_intervals(small_scenario(), options);
    REQUIRE_FALSE(cut.ok());
    CHECK(cut.errors().front().kind == ErrorKind::interrupted);
    CHECK(asked <= 5 + threads);
  }
}
