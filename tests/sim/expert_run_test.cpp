// Expert hotspots from the scenario to the digest: what moves with popularity, placement and balancing.
#include <filesystem>

#include "catch.h"
#include "costmodel/step_pricer.h"
#include "sanitized.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

// Eight H100 serve Qwen3-30B-A3B.
Result<Scenario> load(const std::string& experts, std::vector<std::string> more = {}) {
  ScenarioOptions options;
  options.overrides = {"deployment.hardware=h100", "deployment.model=qwen3-30b-a3b-fp8",
                       "deployment.parallel={tp: 8, ep: 8}",
                       "workload={generator: {requests: 120, arrivals: {process: poisson, rate: 6}, input: "
                       "{distribution: fixed, "
                       "value: 700}, output: {distribution: uniform, low: 20, high: 200}}}"};
  if (!experts.empty()) options.overrides.push_back("deployment.experts=" + experts);
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

RunResult run(const Scenario& s, bool stretches = true) {
  RunOptions options;
  options.stretches = stretches;
  return run_scenario(s, options).value();
}
RunResult run(const std::string& experts, const std::vector<std::string>& more = {}) {
  return run(load(experts, more).value());
}

double expert_us(const std::string& experts, std::int32_t tokens, const std::string& plan = "{tp: 8, ep: 8}",
                 const std::string& model = "qwen3-30b-a3b-fp8") {
  const Scenario s = load(experts, {"deployment.parallel=" + plan, "deployment.model=" + model}).value();
  const StepPricer pricer = StepPricer::create(s.pool.instance).value();
  const std::vector<PrefillChunk> chunk{{tokens, 0}};
  StepShape shape;
  shape.prefill = chunk;
  double us = 0;
  const StepBreakdown step = pricer.explain(shape);
  for (const OpLine& line : step.ops) {
    if (line.op_class == OpClass::grouped_gemm) us += static_cast<double>(line.time_ns) / 1e3;
  }
  return us;
}

std::string refusal(const std::string& experts, const std::vector<std::string>& more = {}) {
  const auto s = load(experts, more);
  return s.ok() ? "" : to_string(s.errors());
}

}  // namespace

TEST_CASE("uniform popularity is the default, to the bit; an exponent of 0 is the same law by another way") {
  if (sanitized) return;  // physics: the Release run says it
  const RunResult plain = run("");
  CHECK(run("{popularity: uniform, eplb: {policy: off}}").digest == plain.digest);
  CHECK(!plain.experts.on);
  for (const std::int32_t tokens : {2, 16, 100, 700, 4000}) {
    INFO(tokens << " tokens");
    CHECK(expert_us("{popularity: {zipf: 0}}", tokens) == Approx(expert_us("", tokens)).epsilon(0.01));
    CHECK(expert_us("{popularity: {zipf: 0}}", tokens, "{tp: 4, ep: 1}", "qwen3-30b-a3b") ==
          Approx(expert_us("", tokens, "{tp: 4, ep: 1}", "qwen3-30b-a3b")).epsilon(0.01));
  }
}

TEST_CASE("stretches and single steps: the same digest under drift, drawn loads and every policy") {
  for (const std::string engine : {"vllm-0.24", "sglang-0.5"}) {
    if (sanitized && engine != "vllm-0.24") continue;
    for (const char* experts :
         {"{popularity: {zipf: 1.1}, routing: sampled}",
          "{popularity: {zipf: 1}, drift: {every_s: 3, steps: 3}}",
          "{popularity: {dirichlet: 0.5}, drift: {every_s: 5}, routing: sampled, eplb: {policy: periodic, "
          "redundant: 16, every_steps: 150, window_steps: 100}}",
          "{popularity: {zipf: 0.8}, drift: {every_s: 4}, eplb: {policy: threshold, threshold: 0.95, "
          "redundant: 8, "
          "every_steps: 90, overlapped: false}}"}) {
      if (sanitized && std::string(experts).find("periodic") == std::string::npos) continue;
      const Scenario s = load(experts, {"deployment.engine=" + engine}).value();
      const RunResult a = run(s), b = run(s), single = run(s, false);
      INFO(engine << " " << experts);
      CHECK(a.completed == 120);
      CHECK(a.digest == b.digest);
      CHECK(a.digest == single.digest);
      CHECK(a.stretches > 0);
      CHECK(a.experts.balancedness == Approx(single.experts.balancedness));
      CHECK(a.experts.series.size() == single.experts.series.size());
      CHECK(a.experts.rebalances == single.experts.rebalances);
    }
  }
}

TEST_CASE("a hotspot hurts expert parallelism, not tensor parallelism; redundant experts mend it") {
  if (sanitized) return;  // physics: the Release run says it
  // A prompt of 8192 tokens: products of rows, so that the rank with most rows decides.
  const std::string hot = "{popularity: {zipf: 1.1}}";
  const double even = expert_us("", 8192), skewed = expert_us(hot, 8192);
  CHECK(skewed > 1.15 * even);
  const std::string tp = "{tp: 4, ep: 1}", model = "qwen3-30b-a3b";
  CHECK(expert_us(hot, 8192, tp, model) < 1.03 * expert_us("", 8192, tp, model));
  const double placed = expert_us("{popularity: {zipf: 1.1}, eplb: {policy: static}}", 8192);
  const double mended = expert_us("{popularity: {zipf: 1.1}, eplb: {policy: static, redundant: 32}}", 8192);
  CHECK(placed < skewed);
  CHECK(mended < 1.03 * even);
}

TEST_CASE("few tokens of unequal popularity read fewer experts") {
  const std::string tp = "{tp: 4, ep: 1}", model = "qwen3-30b-a3b";
  CHECK(expert_us("{popularity: {zipf: 1.2}}", 32, tp, model) < 0.85 * expert_us("", 32, tp, model));
}

TEST_CASE("drawn loads: steps vary, and their mean is the expectation's") {
  if (sanitized) return;  // physics: the Release run says it
  const RunResult expected = run("{popularity: {zipf: 0.6}}"),
                  sampled = run("{popularity: {zipf: 0.6}, routing: sampled}");
  CHECK(sampled.digest != expected.digest);
  CHECK(sampled.tpot.mean == Approx(expected.tpot.mean).epsilon(0.02));
  CHECK(run("{popularity: {zipf: 0.6}, routing: sampled}", {"seed=2"}).digest != sampled.digest);
}

TEST_CASE("statistics of yesterday: balance falls at a change of topic and comes back with the next move") {
  const RunResult r =
      run("{popularity: {zipf: 1}, drift: {every_s: 10}, eplb: {policy: periodic, redundant: 16, "
          "every_steps: 200, "
          "window_steps: 100, overlapped: false}}");
  CHECK(r.experts.rebalances >= 3);
  CHECK(r.experts.moved_experts > 0);
  CHECK(r.experts.moved_bytes > 0);
  double fallen = 1, risen = 0;
  for (std::size_t i = 1; i < r.experts.series.size(); ++i) {
    const double step = r.experts.series[i].balancedness - r.experts.series[i - 1].balancedness;
    fallen = std::min(fallen, step);
    risen = std::max(risen, step);
  }
  CHECK(fallen < -0.1);
  CHECK(risen > 0.1);
  const RunResult never = run("{popularity: {zipf: 1}, drift: {every_s: 5}}");
  CHECK(r.experts.balancedness > never.experts.balancedness + 0.1);
}

TEST_CASE("rebalancing too often costs more than it brings") {
  if (sanitized) return;  // physics: the Release run says it
  const auto every = [&](const std::string& steps) {
    return run(
        "{popularity: {zipf: 1}, drift: {every_s: 10}, eplb: {policy: periodic, redundant: 16, "
        "every_steps: " +
        steps + ", window_steps: 50, overlapped: false}, routing: sampled}");
  };
  const RunResult often = every("10"), seldom = every("400");
  CHECK(often.experts.stall_ns > 10 * seldom.experts.stall_ns);
  CHECK(often.tpot.mean > 1.1 * seldom.tpot.mean);
  // The threshold leaves alone what is balanced.
  const RunResult looked =
      run("{popularity: {zipf: 1}, drift: {every_s: 10}, eplb: {policy: threshold, threshold: 0.9, "
          "redundant: 16, "
          "every_steps: 10, overlapped: false}}");
  CHECK(looked.experts.looks_without_change > 0);
  CHECK(looked.experts.stall_ns < often.experts.stall_ns / 4);
}

TEST_CASE("where nothing changes, balancedness is said once") {
  const RunResult r = run("{popularity: {zipf: 1}, eplb: {policy: static, redundant: 32}}");
  REQUIRE(r.experts.series.size() == 1);
  CHECK(r.experts.balancedness == r.experts.series.front().balancedness);
  CHECK(r.experts.balancedness > run("{popularity: {zipf: 1}}").experts.balancedness + 0.2);
}

TEST_CASE("redundant experts take the room of KV blocks") {
  const Scenario none = load("").value(),
                 some = load("{popularity: {zipf: 1}, eplb: {policy: static, redundant: 32}}").value();
  // A quarter more experts, which are most of the weights.
  CHECK(some.pool.memory.weights.value() > 1.2 * none.pool.memory.weights.value());
  CHECK(some.pool.memory.kv_blocks < none.pool.memory.kv_blocks);
}

TEST_CASE("what cannot be is refused where it stands") {
  CHECK(refusal("{popularity: {zipf: 1}, eplb: {policy: static}}",
                {"deployment.parallel={tp: 4}", "deployment.model=qwen3-30b-a3b"})
            .find("deployment.experts.eplb: balancing experts needs expert parallelism") !=
        std::string::npos);
  CHECK(refusal("{popularity: {zipf: 1}, eplb: {policy: static, redundant: 3}}")
            .find("must divide by ep = 8") != std::string::npos);
  CHECK(
      refusal("{drift: {every_s: 3}}").find("deployment.experts.drift: uniform popularity does not drift") !=
      std::string::npos);
  CHECK(refusal("{popularity: {zipf: 1, dirichlet: 1}}").find("expected one of") != std::string::npos);
  CHECK(refusal("{popularity: {zipf: 1}}", {"deployment.model=qwen3-8b", "deployment.parallel={tp: 1}"})
            .find("has no experts") != std::string::npos);
  CHECK(refusal("{popularity: {zipf: 1}, eplb: {policy: periodic, redundant: 8}}",
                {"deployment.engine=tensorrt-llm-1.2"})
            .find("online balancer") != std::string::npos);
}

TEST_CASE("counted experts of DeepSeek-V2-Lite: topics take turns") {
  const std::string file = "/../shared/data/expert_routing/deepseek_v2_lite_esft_expert_counts.csv";
  std::string path = std::string(ORRERY_SOURCE_DIR) + file;
  if (!std::filesystem::exists(path))
    path = "/work/shared/data/expert_routing/deepseek_v2_lite_esft_expert_counts.csv";
  if (!std::filesystem::exists(path)) {
    WARN("skipped: no " << file);
    return;
  }
  const std::vector<std::string> model = {"deployment.model=deepseek-v2-lite",
                                          "deployment.parallel={tp: 8, ep: 8}"};
  const RunResult r = run("{popularity: {file: '" + path + "'}, drift: {every_s: 2}}", model);
  REQUIRE(r.experts.series.size() > 4);
  // Four topics, then the first again.
  CHECK(r.experts.series[4].balancedness == r.experts.series[0].balancedness);
  CHECK(r.experts.series[1].balancedness != r.experts.series[0].balancedness);
  for (const auto& s : r.experts.series) CHECK((s.balancedness > 0.5 && s.balancedness < 0.85));
  CHECK(refusal("{popularity: {file: '" + path + "'}}").find("counts 64 experts in 26 layers") !=
        std::string::npos);
}
