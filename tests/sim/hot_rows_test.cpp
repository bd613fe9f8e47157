// Hotspots of experts in runs whose rows are exchanged by DeepEP, in halves, and on pipeline stages.
#include "catch.h"
#include "sanitized.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

Result<Scenario> load(const std::string& engine, const std::string& plan, const std::string& args,
                      const std::string& experts, int prompt = 300) {
  ScenarioOptions options;
  options.overrides = {"deployment.hardware=h200",
                       "deployment.model=qwen3-30b-a3b-fp8",
                       "deployment.engine=" + engine,
                       "deployment.parallel=" + plan,
                       "deployment.engine_args={" + args + "}",
                       "workload={generator: {requests: 60, arrivals: {process: poisson, rate: 60}, input: "
                       "{distribution: fixed, value: " +
                           std::to_string(prompt) +
                           "}, output: {distribution: uniform, low: 10, high: 60}}}"};
  if (!experts.empty()) options.overrides.push_back("deployment.experts=" + experts);
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

RunResult run(const Scenario& s, bool stretches = true) {
  RunOptions options;
  options.stretches = stretches;
  return run_scenario(s, options).value();
}

struct Exchange {
  const char *engine, *args;
};
constexpr Exchange exchanges[] = {
    {"sglang-0.5", "context_length: 8192, moe_a2a_backend: deepep"},
    {"sglang-0.5", "context_length: 8192, moe_a2a_backend: deepep, enable_two_batch_overlap: true"},
    {"vllm-0.24", "max_model_len: 8192, all2all_backend: deepep_low_latency, max_num_batched_tokens: 256"},
    {"vllm-0.24",
     "max_model_len: 8192, all2all_backend: deepep_low_latency, max_num_batched_tokens: 256, "
     "enable_dbo: true, dbo_decode_token_threshold: 2, dbo_prefill_token_threshold: 8"},
    {"vllm-0.24", "max_model_len: 8192, all2all_backend: deepep_high_throughput"},
};

}  // namespace

TEST_CASE("exchanged rows: stretches and single steps have one digest, whatever moves") {
  for (const Exchange& x : exchanges) {
    for (const char* experts :
         {"{popularity: {zipf: 1}, drift: {every_s: 0.5}, routing: sampled, eplb: {policy: periodic, "
          "redundant: 16, every_steps: 40, window_steps: 40, overlapped: false}}",
          "{popularity: {zipf: 1}}"}) {
      if (sanitized && &x != &exchanges[3]) continue;
      const Scenario s = load(x.engine, "{dp: 4, ep: 4}", x.args, experts).value();
      const RunResult a = run(s), single = run(s, false);
      INFO(x.engine << " " << x.args << " " << experts);
      CHECK(a.completed == 60);
      CHECK(a.digest == single.digest);
      CHECK(a.experts.rebalances == single.experts.rebalances);
      CHECK(a.experts.on);
    }
  }
}

TEST_CASE("exchanged rows: hardly unequal is uniform, drawn loads keep the mean") {
  if (sanitized) return;
  for (const Exchange& x : exchanges) {
    INFO(x.engine << " " << x.args);
    const auto mean = [&](const std::string& experts) {
      return run(load(x.engine, "{dp: 8, ep: 8}", x.args, experts).value()).e2e.mean;
    };
    CHECK(mean("{popularity: {zipf: 0.001}}") == Approx(mean("")).epsilon(0.005));
    CHECK(mean("{popularity: {zipf: 0.6}, routing: sampled}") ==
          Approx(mean("{popularity: {zipf: 0.6}}")).epsilon(0.02));
  }
}

TEST_CASE("exchanged rows: a hotspot holds long prompts up, redundant experts take it back") {
  if (sanitized) return;
  const auto ttft = [&](const std::string& experts) {
    Scenario s = load(exchanges[0].engine, "{dp: 8, ep: 8}", exchanges[0].args, experts, 6000).value();
    return run(s).ttft.mean;
  };
  const double even = ttft("");
  CHECK(ttft("{popularity: {zipf: 1.1}}") > 1.05 * even);
  CHECK(ttft("{popularity: {zipf: 1.1}, eplb: {policy: static, redundant: 32}}") < 1.02 * even);
}

TEST_CASE("pipeline stages: drawn loads and drift reach every stage; nothing is lost") {
  const auto staged = [&](const std::string& experts) {
    return run(load("vllm-0.24", "{tp: 4, ep: 4, pp: 2}", "max_model_len: 8192", experts).value());
  };
  const RunResult even = staged(""), hot = staged("{popularity: {zipf: 1.2}}"),
                  drawn = staged("{popularity: {zipf: 1.2}, drift: {every_s: 0.5}, routing: sampled}");
  for (const RunResult* r : {&even, &hot, &drawn}) CHECK(r->completed == 60);
  CHECK(hot.digest != even.digest);
  CHECK(drawn.digest != hot.digest);
  CHECK(drawn.digest == staged("{popularity: {zipf: 1.2}, drift: {every_s: 0.5}, routing: sampled}").digest);
  CHECK(drawn.experts.series.size() > 1);
  CHECK(hot.ttft.mean > even.ttft.mean);
}
