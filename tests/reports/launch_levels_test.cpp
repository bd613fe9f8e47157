// What launches of prompts say of an engine's host terms, from made-up samples.
#include "reports/casebook/launch_levels.h"

#include "catch.h"
#include "costmodel/instance_spec.h"

using namespace orrery;

namespace {

InstanceSpec mimo(const std::string& speculation) {
  YamlDocument document =
      YamlDocument::parse("hardware: h200\nmodel: mimo-7b\nengine: vllm-0.24\n" + speculation, "s.yaml")
          .value();
  Errors errors;
  InstanceSpec spec = read_instance_spec(document.root(), ".", errors);
  if (!errors.empty()) FAIL(to_string(errors));
  return spec;
}

}  // namespace

// What is told and not taken is not called taken.
TEST_CASE("beside drafts the level of prompts alone is said, and refused") {
  StepSample s;
  s.mode = StepSample::Mode::none;
  s.prompts = s.clear = true;
  s.graph = 1850;
  s.excess = 14'000;
  s.launches = 600;
  s.busy = 9000;
  s.device = 30'000;
  s.launch = s.graph + 1.6 * s.excess;
  const std::vector<StepSample> samples(12, s);
  const LaunchLevels plain = launch_levels(samples, mimo(""), s.graph, 0);
  CHECK(plain.eager > 1.4);
  CHECK(std::string(verdict_of(plain.lone)) == "taken");
  CHECK(std::string(verdict_of(plain.beside)) == "too few");
  const LaunchLevels drafting =
      launch_levels(samples, mimo("speculation: {method: mtp, tokens: 1, acceptance: [0.75]}\n"), s.graph, 0);
  CHECK(drafting.eager == 1);
  CHECK(drafting.lone.told);
  CHECK(std::string(verdict_of(drafting.lone)) == "refused");
}

TEST_CASE("a name that no experiment has leaves nothing out, and is an error") {
  MeasuredRun run;
  run.folder = "log";
  for (const char* name : {"poisson_r12", "lognormal_r20"}) {
    run.experiments.emplace_back();
    run.experiments.back().name = name;
  }
  const auto message = [&](const std::vector<std::string>& leave_out) {
    return to_string(step_samples(run, mimo(""), leave_out).errors());
  };
  CHECK(message({"poisson_r12", "poisson_r13"}).find("no experiment \"poisson_r13\"") != std::string::npos);
  CHECK(message({"poisson_r13"}).find("did you mean") != std::string::npos);
  CHECK(message({"poisson_r12", "lognormal_r20"}).find("that is not left out") != std::string::npos);
  CHECK(message({"poisson_r12"}).find("vllm_step_log.py") != std::string::npos);
}
