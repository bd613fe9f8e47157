// First-request effects: each first occurrence is charged once in the life of an instance, and nothing
// without being asked for.
#include "sim/costed/first_use.h"

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

Scenario scenario(const std::string& model, const std::string& more, const std::string& hardware = "h100") {
  const std::string text = "deployment:\n  hardware: " + hardware + "\n  model: " + model +
                           "\n  engine: vllm-0.24\n" + more +
                           "workload:\n  generator: {requests: 60, arrivals: {process: poisson, rate: 8}, "
                           "input: {distribution: log-normal, mean: 1500, cv: 0.8}, "
                           "output: {distribution: fixed, value: 40}}\n";
  const std::string path = "first_use_test.yaml";
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  std::fputs(text.c_str(), file);
  std::fclose(file);
  auto loaded = load_scenario(path, {});
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  return std::move(loaded).value();
}

RunResult run(const Scenario& s, RunObserver* observer = nullptr, bool stretches = true) {
  RunOptions options;
  options.observer = observer;
  options.stretches = stretches;
  auto result = run_scenario(s, options);
  INFO((result.ok() ? "" : to_string(result.errors())));
  REQUIRE(result.ok());
  return std::move(result).value();
}

// Tokens of every step that launches kernel by kernel, in order.
class Large final : public RunObserver {
 public:
  explicit Large(std::int64_t captured) : captured_(captured) {}
  void on_step(const StepRecord& r) override {
    const std::int64_t tokens = r.prefill_tokens + r.decode_sequences;
    if (tokens <= captured_) return;
    sizes.push_back(tokens);
    launch_to_end.push_back((r.device_end - r.launch_begin).ns());
  }
  std::vector<std::int64_t> sizes, launch_to_end;

 private:
  std::int64_t captured_;
};

const std::string on = "  first_request_effects: true\n", off = "  first_request_effects: false\n";

}  // namespace

TEST_CASE("the rule: mxfp4 experts by tokens rounded up to 32, fused ones by a multiple of 16 rows or not") {
  const Scenario oss = scenario("gpt-oss-20b", on), qwen = scenario("qwen3-30b-a3b", on),
                 dense = scenario("qwen3-8b", on);
  FirstUse mxfp4(oss.pool.instance, 1, 2);
  CHECK(mxfp4.charge(0, 1024) == 0);  // captured
  CHECK(mxfp4.charge(0, 8192) == 0);  // profiled with
  CHECK(mxfp4.charge(0, 8191) == 0);  // rounds to the same
  CHECK(mxfp4.is_new(0, 1025));
  CHECK(mxfp4.charge(0, 1025) == 724'000'000);
  CHECK_FALSE(mxfp4.is_new(0, 1056));
  CHECK(mxfp4.charge(0, 1056) == 0);
  CHECK(mxfp4.charge(0, 1057) == 724'000'000);
  CHECK(mxfp4.charge(1, 1056) == 724'000'000);  // another instance compiles for itself
  CHECK(mxfp4.count() == 3);

  FirstUse fused(qwen.pool.instance, 0.5, 1);
  CHECK(fused.charge(0, 511) == 0);
  CHECK(fused.charge(0, 2050) == 0);  // 8 experts of a token: 16,400 rows
  CHECK(fused.charge(0, 2051) == 572'500'000);
  CHECK(fused.charge(0, 6197) == 0);
  CHECK(fused.count() == 1);

  FirstUse none(dense.pool.instance, 1, 1), absent;
  for (const std::int64_t tokens : {513, 2051, 8000}) {
    CHECK(none.charge(0, tokens) == 0);
    CHECK(absent.charge(0, tokens) == 0);
  }
}

TEST_CASE("off: the same run as without the key, to the bit") {
  for (const char* model : {"gpt-oss-20b", "qwen3-30b-a3b"}) {
    const RunResult without = run(scenario(model, "")), with = run(scenario(model, off));
    CHECK(without.digest == with.digest);
    CHECK(with.first_uses == 0);
    CHECK(run(scenario(model, on)).digest != without.digest);
  }
  const RunResult dense = run(scenario("qwen3-8b", on));
  CHECK(dense.digest == run(scenario("qwen3-8b", "")).digest);
  CHECK(dense.first_uses == 0);
}

TEST_CASE("on: each first occurrence of a run is charged exactly once, and its step is held up") {
  const Scenario s = scenario("gpt-oss-20b", on);
  Large large(1024);
  const RunResult result = run(s, &large);
  std::vector<bool> seen(257, false);
  seen[256] = true;
  std::uint64_t firsts = 0;
  for (std::size_t i = 0; i < large.sizes.size(); ++i) {
    const auto key = static_cast<std::size_t>((large.sizes[i] + 31) / 32);
    const bool first = !seen[key];
    seen[key] = true;
    firsts += first;
    CHECK((large.launch_to_end[i] > 724'000'000) == first);
  }
  CHECK(firsts > 10);
  CHECK(result.first_uses == firsts);
  CHECK(result.first_use_ns == static_cast<std::int64_t>(firsts) * 724'000'000);
  // Two instances compile for themselves.
  CHECK(run(scenario("gpt-oss-20b", on + "  replicas: 2\n")).first_uses > firsts);
}

TEST_CASE("a step that compiles ends a stretch: single steps give the same run") {
  // Decodes beyond the captured sizes: without graphs, every step is.
  const std::string eager = on + "  engine_args: {enforce_eager: true}\n";
  for (const char* model : {"gpt-oss-20b", "qwen3-30b-a3b"}) {
    const Scenario s = scenario(model, eager);
    const RunResult stretches = run(s), single = run(s, nullptr, false);
    CHECK(stretches.digest == single.digest);
    CHECK(stretches.first_uses == single.first_uses);
    CHECK(stretches.first_uses > 0);
  }
}

TEST_CASE("a profile without figures refuses") {
  const std::string path = "first_use_test.yaml";
  std::FILE* file = std::fopen(path.c_str(), "w");
  REQUIRE(file != nullptr);
  std::fputs(
      "deployment: {hardware: h200, model: qwen3-30b-a3b, engine: sglang-0.5, first_request_effects: true}\n",
      file);
  std::fclose(file);
  ScenarioOptions options;
  options.needs_workload = false;
  const auto loaded = load_scenario(path, options);
  REQUIRE_FALSE(loaded.ok());
  CHECK(to_string(loaded.errors()).find("has no first_use figures") != std::string::npos);
}
