// Gemma and Phi-3 from a scenario to the digest: windows that slide under long contexts, in groups of layers.
#include "catch.h"
#include "example_scenario.h"

using namespace orrery;

namespace {

// `workload` replaces the example's trace.
Scenario scenario(const std::string& model, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"deployment.model=" + model, "workload.limit={requests: 200}"});
  return example_at_four_times_its_rate(more);
}

}  // namespace

TEST_CASE("Gemma and Phi-3 end every request, the same digest twice and with single steps") {
  for (const char* model : {"gemma-2-9b", "gemma-3-1b-it", "gemma-3-27b-it", "phi-3-mini", "phi-4-mini"}) {
    CAPTURE(model);
    const Scenario s = scenario(model);
    const RunResult a = run(s), b = run(s), single = run(s, false);
    CHECK(a.completed + a.rejected == 200);
    CHECK(a.completed > 150);
    CHECK(a.digest == b.digest);
    CHECK(a.digest == single.digest);
  }
}

TEST_CASE("windows on SGLang and TensorRT-LLM, and beside drafts, end every request and say so twice alike") {
  const std::string windows =
      "deployment.engine_args={max_seq_len: 16384, kv_cache_config: {enable_block_reuse: false, "
      "max_attention_window: [512, 512, 512, 512, 512, 16384]}}";
  const std::string eagle =
      "deployment.speculation={method: eagle, tokens: 3, acceptance: 0.6, draft: {layers: 1, intermediate: "
      "8192}}";
  for (const auto& [model, more] : std::vector<std::pair<std::string, std::vector<std::string>>>{
           {"gemma-3-12b-it", {"deployment.engine=sglang-0.5"}},
           {"gemma-3-1b-it", {"deployment.engine=tensorrt-llm-1.2", windows}},
           {"gpt-oss-20b", {eagle}},
           {"gpt-oss-20b", {"deployment.engine=sglang-0.5", eagle}}}) {
    CAPTURE(model, more.front());
    const Scenario s = scenario(model, more);
    const RunResult a = run(s), b = run(s), single = run(s, false);
    CHECK(a.completed + a.rejected == 200);
    CHECK(a.completed > 150);
    CHECK(a.digest == b.digest);
    CHECK(a.digest == single.digest);
  }
  const std::string text =
      scenario("gemma-3-1b-it", {"deployment.engine=tensorrt-llm-1.2", windows}).resolved_yaml();
  CHECK(text.find("max_attention_window: [512, 512, 512, 512, 512, 16384]") != std::string::npos);
}

// A prompt of 20,000 tokens in chunks of 2,048, then 1,000 tokens: the widest moment is the chunk before the
// last, 1,152 blocks of all tokens and 192 (1,023 old tokens and the chunk's) in each of six windowed groups.
TEST_CASE("windows slide under a long context, and the pool holds no more than they see") {
  const std::string one_long_request =
      "workload={generator: {requests: 1, arrivals: {process: fixed, rate: 1}, input: {distribution: fixed, "
      "value: 20000}, output: {distribution: fixed, value: 1000}}}";
  const auto held = [&](const std::string& args) {  // pages of one layer
    ScenarioOptions options;
    options.overrides = {"deployment.model=gemma-3-27b-it",
                         "deployment.engine_args={max_num_batched_tokens: 2048" + args + "}",
                         one_long_request};
    const Scenario s =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
    const RunResult r = run(s);
    CHECK(r.completed == 1);
    CHECK(r.output_tokens == 1000);
    const double blocks = r.pools[0].peak_utilization * static_cast<double>(r.pools[0].kv_blocks - 1);
    return blocks * static_cast<double>(s.pool.memory.groups.layers);
  };
  CHECK(held("") / 10 == Approx(1152 + 6 * 192).margin(7));
  CHECK(held(", disable_hybrid_kv_cache_manager: true") / 62 == Approx(21000 / 16).margin(2));
}
