// First-request effects: each first occurrence is charged once in the life of an instance, and nothing
// without being asked for.
#include "sim/costed/first_use.h"

#include <filesystem>

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
  const std::string path = std::filesystem::temp_directory_path() / "orrery-first_use_test.yaml";
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
    CHECK_FALSE(absent.grows(0, tokens, tokens));
    CHECK_FALSE(fused.grows(0, tokens, tokens));  // the V1 runner
  }
}

TEST_CASE("the V2 runner's sampler waits for the device when it has more rows than ever, once") {
  const Scenario dense = scenario("qwen3-8b", on);
  FirstUse rule(dense.pool.instance, 1, 2);
  CHECK_FALSE(rule.grows(0, 8192, 17));  // 17 rows of 151,936 logits in fp32 are less than 10 MiB
  CHECK(rule.grows(0, 8192, 18));
  CHECK_FALSE(rule.grows(0, 8192, 18));
  CHECK_FALSE(rule.grows(0, 512, 30));  // launched as pieces: takes the memory, was not seen to wait
  CHECK_FALSE(rule.grows(0, 8192, 30));
  CHECK(rule.grows(1, 8192, 30));

  // 48 prompts of 1,024 tokens at once, eight a step, twice. The second time everything is there.
  struct Updates final : RunObserver {
    std::vector<SimTime> schedule, device_end, update;
    void on_step(const StepRecord& r) override {
      if (r.prefill_tokens <= 512) return;
      schedule.push_back(r.schedule_begin);
      device_end.push_back(r.device_end);
      update.push_back(r.update_end);
    }
  } cold;
  const auto batch = [](const std::string& flag) {
    const std::string trace = std::filesystem::temp_directory_path() / "orrery-first_use_test.jsonl";
    const std::string path = std::filesystem::temp_directory_path() / "orrery-first_use_test.yaml";
    std::FILE* file = std::fopen(trace.c_str(), "w");
    REQUIRE(file != nullptr);
    for (const int at : {0, 20000}) {
      for (int i = 0; i < 48; ++i)
        std::fprintf(file, "{\"timestamp\": %d, \"input_length\": 1024, \"output_length\": 60}\n", at);
    }
    std::fclose(file);
    file = std::fopen(path.c_str(), "w");
    REQUIRE(file != nullptr);
    std::fputs(("deployment:\n  hardware: h200\n  model: qwen3-8b\n  engine: vllm-0.24\n" + flag +
                "workload: {trace: " + trace + "}\n")
                   .c_str(),
               file);
    std::fclose(file);
    auto loaded = load_scenario(path, {});
    INFO((loaded.ok() ? "" : to_string(loaded.errors())));
    REQUIRE(loaded.ok());
    return std::move(loaded).value();
  };
  const RunResult with = run(batch(on), &cold), without = run(batch(off));
  CHECK(with.first_uses >= 3);  // steps with 19 … 48 rows
  CHECK(with.first_uses <= 5);
  CHECK(with.first_use_ns > 0);
  CHECK(without.first_uses == 0);
  // Nothing overlaps with a step that waits: the update of the one ahead comes after it, not a step earlier.
  std::uint64_t late = 0;
  for (std::size_t i = 0; i + 1 < cold.update.size(); ++i) late += cold.device_end[i + 1] <= cold.update[i];
  CHECK(late == with.first_uses);
}

TEST_CASE("off: the same run as without the key, to the bit") {
  for (const char* model : {"gpt-oss-20b", "qwen3-30b-a3b"}) {
    const RunResult without = run(scenario(model, "")), with = run(scenario(model, off));
    CHECK(without.digest == with.digest);
    CHECK(with.first_uses == 0);
    CHECK(run(scenario(model, on)).digest != without.digest);
  }
  // Of a dense model's few sequences the logits are small.
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
  const std::string path = std::filesystem::temp_directory_path() / "orrery-first_use_test.yaml";
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
