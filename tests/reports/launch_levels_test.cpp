// What launches of prompts say of an engine's host terms, from made-up samples.
#include "reports/casebook/launch_levels.h"

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "reports/casebook/step_fit.h"
#include "step_sample.h"

using namespace orrery;

namespace {

InstanceSpec instance(const std::string& model, const std::string& speculation,
                      const std::string& engine = "vllm-0.24") {
  const std::string text = "hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + speculation;
  YamlDocument document = YamlDocument::parse(text, "s.yaml").value();
  Errors errors;
  InstanceSpec spec = read_instance_spec(document.root(), ".", errors);
  if (!errors.empty()) FAIL(to_string(errors));
  return spec;
}

InstanceSpec mimo(const std::string& speculation) { return instance("mimo-7b", speculation); }

}  // namespace

// What is told and not taken is not called taken.
TEST_CASE("beside drafts the level of prompts alone is said, and refused") {
  StepSample s = test::prompt_sample(9000, 30'000);
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

TEST_CASE("a log of another model or engine than the scenario's is fitted with a warning") {
  auto run = load_measured_run(std::string(ORRERY_SOURCE_DIR) +
                               "/reports/cases/h100_vllm_0_24/qwen3-4b_bf16_tp1_small");
  REQUIRE(run.ok());
  const auto warned = [&](const std::string& model, const std::string& engine) {
    const StepFit fit = fit_steps(*run, instance(model, "", engine)).value();
    std::string all;
    for (const std::string& w : fit.warnings) all += w + "\n";
    return all;
  };
  CHECK(warned("qwen3-4b", "vllm-0.24").find("scenario") == std::string::npos);
  CHECK(warned("qwen3-8b", "vllm-0.24").find("served Qwen3-4B, the scenario says qwen3-8b") !=
        std::string::npos);
  CHECK(warned("qwen3-4b", "sglang-0.5").find("one of vllm") != std::string::npos);
}
