// What `orrery validate --engines` rests on: replayed schedules, error parts that add up, citations that are
// there.
#include "reports/casebook/engine_fidelity.h"

#include <cmath>

#include "catch.h"

using namespace orrery;

TEST_CASE("every measured run: its schedule again, and an error that is the sum of its parts") {
  const auto fidelity = measure_engine_fidelity([](const std::string&) {});
  INFO((fidelity.ok() ? "" : to_string(fidelity.errors())));
  REQUIRE(fidelity.ok());
  REQUIRE(fidelity->runs.size() == 16);
  std::int64_t steps = 0;
  int split = 0;
  for (const RunFidelity& run : fidelity->runs) {
    INFO(run.run.name << " " << run.skipped);
    CHECK(run.skipped.empty());
    CHECK(run.identical == run.steps);
    CHECK(run.times.median_abs < 0.02);
    CHECK(run.times.running_on_median_abs < 0.02);
    steps += run.steps;
    for (const ExperimentSplit& experiment : run.experiments) {
      for (const MetricSplit& m : experiment.metrics) {
        if (m.requests == 0) continue;
        INFO(experiment.experiment << " " << m.metric);
        CHECK(m.step_time + m.host + m.queueing + m.client == Approx(m.predicted - m.measured).margin(1e-6));
        ++split;
      }
      CHECK(experiment.in_place <= experiment.logged_steps);
      CHECK(experiment.partners >= experiment.in_place);
    }
  }
  CHECK(steps == 62'560);
  CHECK(split > 60);
  for (const EngineCoverage& engine : fidelity->engines) {
    INFO(engine.engine);
    CHECK(engine.tests_read);
    CHECK(engine.uncited.empty());
    CHECK(engine.missing.empty());
    CHECK(engine.rules.size() > 20);
  }
}

TEST_CASE("the report, its data and its table are of the same runs") {
  const EngineFidelity f = measure_engine_fidelity([](const std::string&) {}).value();
  const std::string page = fidelity_markdown(f), table = fidelity_csv(f),
                    data = canonical_json(fidelity_json(f));
  for (const RunFidelity& run : f.runs) {
    CHECK(page.find(run.run.name) != std::string::npos);
    CHECK(table.find(run.run.name) != std::string::npos);
    CHECK(data.find(run.run.name) != std::string::npos);
  }
}
