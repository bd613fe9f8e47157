// Context parallelism in runs: a split cache is blocks of all its ranks, prompts dealt out are another price
// (docs/context_parallel.md).
#include <string>
#include <vector>

#include "../catch.h"
#include "example_scenario.h"

using namespace orrery;

namespace {

const std::string split =
    "{hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, parallel: {tp: 8}, engine_args: "
    "{decode_context_parallel_size: 2";
const std::string dealt =
    "{hardware: h200, model: qwen3-30b-a3b, engine: sglang-0.5, parallel: {cp: 4}, engine_args: "
    "{enable_prefill_cp: true, cp_strategy: zigzag";

Scenario scenario(const std::string& deployment, const std::vector<std::string>& more = {}) {
  return small_example(deployment, more).value();
}

// Nobody is lost, and answers are whole: as many tokens as anywhere.
void check_conserved(const RunResult& r) {
  static const RunResult plain = run(scenario("{hardware: h200, model: qwen3-8b, engine: vllm-0.24}"));
  CHECK(r.completed == 300);
  CHECK(r.input_tokens == plain.input_tokens);
  CHECK(r.output_tokens == plain.output_tokens);
}

}  // namespace

TEST_CASE("a split cache: every request ends once, in stretches as step by step [context_parallel]") {
  const Scenario s = scenario(split + "}}");
  const RunResult r = run(s);
  check_conserved(r);
  CHECK(r.digest == run(s, false).digest);
  CHECK(s.pool.memory.block_size == 32);
}

TEST_CASE("a split cache that is too small for the load preempts and loses nobody [context_parallel]") {
  const RunResult r = run(scenario(split + ", max_model_len: 16000, num_gpu_blocks_override: 501}}"));
  check_conserved(r);
  CHECK(r.preemptions > 0);
  // As many blocks of half the tokens are fewer still.
  const RunResult whole =
      run(scenario("{hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, parallel: {tp: 8}, "
                   "engine_args: {max_model_len: 8000, num_gpu_blocks_override: 501}}"));
  CHECK(whole.preemptions > r.preemptions);
}

TEST_CASE("a split cache finds prompts again in blocks of all its ranks [context_parallel]") {
  const auto found = [](const std::string& deployment) {
    return run(scenario(deployment, {"workload={generator: {requests: 60, arrivals: {process: fixed, rate: "
                                     "4}, input: {distribution: "
                                     "fixed, value: 100}, output: {distribution: fixed, value: 20}, "
                                     "sessions: {turns_mean: 4, think_s: "
                                     "1}}}"}))
        .cached_tokens;
  };
  const std::uint64_t whole = found(
                          "{hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, parallel: {tp: 8}}"),
                      parts = found(split + "}}");
  CHECK(parts % 32 == 0);
  CHECK(parts > 0);
  CHECK(whole % 32 != 0);  // else the line above says nothing
  CHECK(parts < whole);    // half a block is lost where 16 tokens more are equal
}

TEST_CASE(
    "prompts dealt to ranks: every request ends once, in stretches as step by step [context_parallel]") {
  const Scenario s = scenario(dealt + "}}");
  const RunResult r = run(s);
  check_conserved(r);
  CHECK(r.digest == run(s, false).digest);
}

TEST_CASE("over nodes the ranks' collectives pay for the network [context_parallel]") {
  const std::vector<std::string> nodes{
      "deployment.topology={preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}"};
  const std::string latent =
      "{hardware: h200, model: deepseek-r1, engine: vllm-0.24, parallel: {tp: 16}, engine_args: "
      "{max_model_len: 8192, decode_context_parallel_size: ";
  const Scenario inside = scenario(latent + "8}}", nodes), across = scenario(latent + "16}}", nodes);
  REQUIRE(across.pool.instance.links != nullptr);
  CHECK_FALSE(inside.pool.instance.links->context.crosses());
  CHECK(across.pool.instance.links->context.nodes == 2);
  CHECK(across.pool.instance.links->context.ranks == 16);
  // Twice the ranks, less what graphs keep for twice the heads.
  const MemoryPlan &twice = across.pool.memory, &once = inside.pool.memory;
  CHECK(twice.kv_tokens() < 2 * once.kv_tokens());
  CHECK((twice.kv_available + twice.graphs).value() == Approx((once.kv_available + once.graphs).value()));
  CHECK(twice.kv_tokens() == twice.kv_blocks * 2 * once.block_size);
}

TEST_CASE("a prefill pool that deals its prompts out sends them by its first copy [context_parallel]") {
  const auto pools = [](const std::string& plan, const std::string& args) {
    return "{topology: {preset: hopper-8, nodes: 1}, pools: [{name: p, role: prefill, hardware: h200, model: "
           "qwen3-30b-a3b, engine: sglang-0.5, parallel: " +
           plan + ", engine_args: " + args +
           "}, {name: d, role: decode, hardware: h200, model: qwen3-30b-a3b, engine: sglang-0.5}]}";
  };
  const std::string dealt_args = "{enable_prefill_cp: true, cp_strategy: zigzag}";
  const RunResult one = run(scenario(pools("{tp: 1}", "{}"))),
                  four = run(scenario(pools("{cp: 4}", dealt_args)));
  check_conserved(one);
  check_conserved(four);
  CHECK(one.transfers.bytes == four.transfers.bytes);
  const auto refused = small_example(
      "{topology: {preset: hopper-8, nodes: 1}, pools: [{name: p, role: prefill, hardware: h200, model: "
      "qwen3-30b-a3b, "
      "engine: sglang-0.5}, {name: d, role: decode, hardware: h200, model: qwen3-30b-a3b, engine: "
      "sglang-0.5, parallel: "
      "{cp: 4}}]}");
  REQUIRE_FALSE(refused.ok());
  CHECK(to_string(refused.errors()).find("prefill pools of SGLang only") != std::string::npos);
}
