// What a step log says of an endpoint's measurement: vLLM 0.24's own server on an H200, Mooncake's first
// minute.
#include <cmath>

#include "catch.h"
#include "live/endpoint_comparison.h"
#include "live/measurement.h"
#include "workloads/workload.h"

using namespace orrery;

namespace {

const std::string root = std::string(ORRERY_SOURCE_DIR) + "/reports/cases/h200_vllm_0_24_endpoint/qwen3-8b";

const Attribution& part(const StepEvidence& e, const std::string& metric) {
  for (const Attribution& a : e.attribution) {
    if (a.metric == metric) return a;
  }
  FAIL("no attribution of " << metric);
  return e.attribution.front();
}

}  // namespace

TEST_CASE("a real server's error comes apart into parts that add up to it") {
  const Scenario scenario = load_scenario(root + "/mooncake.yaml", {}).value();
  auto source = open_workload(scenario.workload, scenario.seed).value();
  const EndpointRun run = read_measurement(root + "/mooncake", *source).value();
  REQUIRE(run.records.size() == 75);
  CHECK(run.kv_blocks == 50898);
  CHECK_FALSE(run.late());
  EndpointComparison comparison = compare_with_endpoint(scenario, run, {.runs = 0}).value();
  CHECK(comparison.predicted.size() == run.records.size());

  MeasuredRun log = load_measured_run(root + "/steps").value();
  // The other loads fill no block that this one finds: it stands alone, and the test is short.
  std::erase_if(log.experiments, [](const MeasuredExperiment& e) { return e.name != "load_4"; });
  log.experiments.front().keeps_cache = false;
  SECTION("its load is found by its requests") {
    REQUIRE(add_step_evidence(comparison, scenario, run, log, "").ok());
    const StepEvidence& e = *comparison.steps;
    CHECK(e.experiment == "load_4");
    CHECK(e.steps == 6315);
    CHECK(e.identical == e.steps);
    for (const char* metric : {"ttft_ms", "tpot_ms"}) {
      const Attribution& a = part(e, metric);
      INFO(metric);
      CHECK(a.requests == (std::string(metric) == "ttft_ms" ? 73 : 72));  // one answer has a single token
      CHECK(a.step_time + a.host + a.queueing + a.transfer + a.front_end ==
            Approx(a.predicted - a.measured).margin(1e-9));
      for (const ComparedMetric& m : comparison.compared.metrics) {
        if (m.name != std::string(metric) + ".mean") continue;
        CHECK(a.predicted == Approx(m.predicted).epsilon(1e-6));
        CHECK(a.measured == Approx(m.measured).epsilon(1e-6));
      }
    }
    // TPOT's error is the device's: decode attention of long contexts is priced too long.
    CHECK(std::abs(part(e, "tpot_ms").step_time) > 3 * std::abs(part(e, "tpot_ms").host));
    std::int64_t steps = 0;
    for (const StepKind& k : e.kinds) {
      steps += k.steps;
      double share = 0;
      for (const auto& [name, percent] : k.ops) share += percent;
      CHECK(share == Approx(100));
    }
    CHECK(steps == e.steps);
    double share = 0;
    for (const ClassResidual& c : e.classes) share += c.share;
    CHECK(share == Approx(100));
    const Json json = endpoint_json(comparison, run);
    CHECK(json["steps"]["attribution"]["tpot_ms"]["step_time"] == part(e, "tpot_ms").step_time);
    const std::string page = endpoint_page(comparison, run, "Mooncake", "orrery live").value();
    CHECK(page.find("Where the error comes from") != std::string::npos);
  }
  SECTION("a load of other requests is refused, with the names of those there are") {
    log.experiments.front().requests.front().prompt_tokens += 1;
    const Status added = add_step_evidence(comparison, scenario, run, log, "load_4");
    REQUIRE_FALSE(added.ok());
    CHECK(to_string(added.errors()).find("load_4") != std::string::npos);
  }
  SECTION("one log is not of several engines") {
    Scenario two = scenario;
    two.pool.replicas = 2;
    CHECK_FALSE(add_step_evidence(comparison, two, run, log, "").ok());
  }
}
