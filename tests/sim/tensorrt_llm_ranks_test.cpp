// TensorRT-LLM's attention data parallelism: who gets a request, in which pass nobody runs, what waits for a
// balance, how ranks are padded together, and that nothing leaks. Rules cite pyexecutor/py_executor.py and
// request_utils.py by function.
#include "sim/schedulers/tensorrt_llm_ranks.h"
#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "costmodel/padding.h"
#include "costmodel/weight_format.h"
#include "sim/costed/run.h"
#include "tensorrt_llm_desk.h"
#include "tensorrt_llm_world.h"

using namespace orrery;

namespace {

constexpr std::uint64_t worlds = sanitized ? 20 : 100;

std::unique_ptr<Scheduler> ranks_of(SchedulerConfig config, std::int32_t ranks) {
  return make_instance_scheduler(*find_scheduler("tensorrt-llm"), config, ranks);
}

InstanceSpec mixture(std::int32_t ranks, std::int32_t ep) {
  InstanceSpec spec = hand::instance(hand::mixture());
  spec.plan.dp = ranks;
  spec.plan.ep = ep;
  spec.engine.settings.joint = {.ranks = ranks, .rule = JointRule::tensorrt_llm};
  return spec;
}

world::RandomWorld random_ranks(std::uint64_t seed) {
  world::RandomWorld out = world::tensorrt_llm_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 13);
  const std::int32_t ranks[] = {2, 3, 4};
  const std::int32_t dp = ranks[r.below(3)];
  const std::int32_t depth = out.world.spec.engine.steps_in_flight;
  out.world.spec = mixture(dp, dp == 3 ? 1 : dp);  // 128 experts
  out.world.spec.engine.steps_in_flight = depth;
  TensorRtLlmRules& rules = out.world.config.tensorrt_llm;
  rules.enable_balance = r.below(2) == 0;
  rules.timeout_iters = static_cast<std::int64_t>(r.below(60));
  rules.batching_wait_iters = static_cast<std::int64_t>(r.below(12));
  return out;
}

GraphPadding padding(bool pads) {
  SchedulerSettings s;
  s.cudagraph_sizes = {1, 2, 4, 8, 16};
  s.graphs_by_phase = true;
  s.pad_to_graph = pads;
  s.joint = {.ranks = 2, .rule = JointRule::tensorrt_llm};
  return GraphPadding(s);
}

std::string refusal(std::vector<std::string> more) {
  ScenarioOptions options;
  options.overrides = {"deployment.engine=tensorrt-llm-1.2", "deployment.engine_args={}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  const auto s =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml", options);
  return s.ok() ? "" : to_string(s.errors());
}

}  // namespace

// _fetch_new_requests: an idle executor takes one item. schedule_attention_dp_requests: share = max(⌈(1 + 3)
// / 2⌉, 1) = 2; longest first: 1 (300) to the rank without tokens, 2 (200) to rank 0 (100 tokens), which is
// full then, 3 (50) to rank 1. _pad_attention_dp_dummy_request: rank 1 runs a dummy in the first pass.
TEST_CASE("§6.1 a pass deals out what has come, longest prompt first, to the rank with least tokens") {
  desk::Desk desk(ranks_of(desk::config(1000), 2), 2);
  for (const std::int32_t prompt : {100, 300, 200, 50}) desk.add({prompt, 5});
  CHECK(desk.pass() == "[0:100@0 +0] [+0] free 1996");
  CHECK(desk.pass() == "[2:200@0 +1] [1:300@0 3:50@0 +0] free 1977");
}

// _can_queue: `0 not in tp_batch_sizes`. After pass 1 request 0 has its last token in flight: rank 0 has a
// request and nothing to run, so rank 1 stands still too until the token is here. Then rank 0 runs dummies.
TEST_CASE("§6.3 nobody runs in a pass in which a rank's requests all wait for their last token") {
  desk::Desk desk(ranks_of(desk::config(1000), 2), 2);
  desk.add({10, 2});
  CHECK(desk.pass() == "[0:10@0 +0] [+0] free 1999");
  desk.add({10, 5});
  CHECK(desk.pass() == "[+1] [1:10@0 +0] free 1998");
  CHECK(desk.pass() == "[+0] [+0] free 1998; end 0");
  CHECK(desk.pass() == "[+0] [+1] free 1999");
  CHECK(desk.pass() == "[+0] [+1] free 1999");
}

// _balance_adp_requests with timeout_iters 3 and batching_wait_iters 1, request by request.
TEST_CASE("§6.2 with a balance prompts wait until every rank has one, or for so many passes") {
  SchedulerConfig config = desk::config(1000);
  config.tensorrt_llm.enable_balance = true;
  config.tensorrt_llm.timeout_iters = 3;
  config.tensorrt_llm.batching_wait_iters = 1;
  desk::Desk desk(ranks_of(config, 2), 2);
  desk.add({10, 50});
  CHECK(desk.pass() == "[0:10@0 +0] [+0] free 1999");  // rank 0 has no generation: at once
  desk.add({10, 50});
  CHECK(desk.pass() == "[+1] [1:10@0 +0] free 1998");  // nor has rank 1
  desk.add({10, 50});
  CHECK(desk.pass() == "[+1] [+1] free 1998");         // waits: 1
  CHECK(desk.pass() == "[+1] [+1] free 1998");         // 2
  CHECK(desk.pass() == "[2:10@0 +1] [+1] free 1997");  // 3 of 3
  desk.add({20, 50});
  desk.add({10, 50});
  CHECK(desk.pass() == "[+2] [+1] free 1997");  // both ranks have one: held for a fuller batch, 1 of 1
  CHECK(desk.pass() == "[4:10@0 +2] [3:20@0 +1] free 1995");
}

TEST_CASE("random worlds: every request ends once on some rank, tokens add up [trtllm]") {
  world::Visited visited, never_evicting;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    const auto [w, requests] = random_ranks(seed);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    world::check_conservation(w, requests, refused,
                              w.config.tensorrt_llm.max_utilization ? visited : never_evicting);
  }
  CHECK(never_evicting.preemptions == 0);
  if (!sanitized) CHECK(visited.preemptions > 0);
  CHECK(visited.cached + never_evicting.cached > worlds);
  CHECK(visited.eos + never_evicting.eos > worlds);
  CHECK(visited.stretches + never_evicting.stretches > worlds);
}

TEST_CASE("single steps and stretches of ranks that are dealt to decide the same [trtllm]") {
  std::uint64_t stretches = 0;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    auto [w, requests] = random_ranks(seed);
    CAPTURE(seed);
    const RunResult a = world::check_stretches(w, requests, seed);
    stretches += a.stretches;
  }
  CHECK(stretches > worlds);
}

// CUDAGraphRunner: a graph needs generations alone everywhere; the largest batch is everybody's with padding,
// and without it all must be equal. ../shared/reference/tensorrt_llm_1_2.md §5, "ADP".
TEST_CASE("ranks share a graph when all decode, and without padding only when they decode alike") {
  const PrefillChunk chunk{.new_tokens = 100, .context = 0};
  StepShape prompt;
  prompt.prefill = std::span(&chunk, 1);
  const StepShape five = hand::decode(5, 50), eight = hand::decode(8, 80), none;
  const StepShape uneven[] = {five, eight}, alone[] = {five, none}, even[] = {eight, eight},
                  mixed[] = {five, prompt};
  CHECK(padding(true).join(uneven).mode == GraphMode::full);
  CHECK(padding(true).join(uneven).gathered == 16);
  CHECK(padding(true).join(alone).rank_tokens == 8);
  CHECK(padding(false).join(uneven).mode == GraphMode::none);
  CHECK(padding(false).join(uneven).gathered == 13);
  CHECK(padding(false).join(alone).gathered == 6);  // the dummy's row
  CHECK(padding(false).join(even).mode == GraphMode::full);
  CHECK(padding(true).join(mixed).mode == GraphMode::none);
  CHECK(padding(true).join(mixed).gathered == 105);
}

// fused_moe_cutlass.py: allgather of x, chosen experts (int32) and their weights (fp32); reducescatter.
TEST_CASE("bytes between TensorRT-LLM's ranks: rows of all to all, results dealt out again") {
  const StepBreakdown b = StepPricer::create(mixture(4, 4)).value().explain(hand::decode(8, 8000));
  const double rows = 4 * 8, sent = 3.0 / 4 * 48;  // in 48 layers
  const auto line = [&](const char* name) {
    const auto it = std::find_if(b.ops.begin(), b.ops.end(), [&](const OpLine& l) { return l.name == name; });
    return it == b.ops.end() ? -1.0 : it->link_bytes;
  };
  CHECK(line("dp_dispatch") == Approx(sent * rows * (2 * 2048 + 8 * 8)));
  CHECK(line("dp_combine") == Approx(sent * rows * 2 * 2048));
  // Block-scaled weights: the kernel quantises what was gathered, so rows travel in two bytes all the same.
  ModelSpec blocks = hand::mixture();
  blocks.quantization = Quantization::fp8_block;
  blocks.quantization_block = 128;
  WeightFormat eight_bits;
  eight_bits.activation_bytes = 1;
  CHECK(dispatch_bytes(blocks, eight_bits, JointRule::tensorrt_llm) == 2 * 2048 + 8 * 8);
  CHECK(dispatch_bytes(blocks, eight_bits, JointRule::vllm) == 2048 + 4 * 16 + 8 * 8);
}

TEST_CASE(
    "a deployment with attention ranks of TensorRT-LLM: memory of a rank, and what is refused [trtllm]") {
  ScenarioOptions options;
  options.overrides = {
      "deployment.engine=tensorrt-llm-1.2",
      "deployment.engine_args={enable_attention_dp: true, tensor_parallel_size: 8, max_seq_len: 16384, "
      "attention_dp_config: {enable_balance: true}}",
      "workload.limit={requests: 100}"};
  const Scenario s =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml", options).value();
  // A rank holds attention, dense MLPs, shared experts, embedding and head whole, and an eighth of the routed
  // experts: 61 layers of MLA, 58 · 32 experts.
  const double gib = 1024.0 * 1024 * 1024;
  const double experts = 58 * 32 * 3 * 7168.0 * 2048 / gib;
  const MemoryPlan& plan = s.pool.memory;
  CHECK(plan.weights.value() / gib > experts + 11);
  CHECK(plan.weights.value() / gib < experts + 25);
  const RunResult a = run_scenario(s).value();
  CHECK(a.completed == 100);
  RunOptions single;
  single.stretches = false;
  CHECK(run_scenario(s, single).value().digest == a.digest);
  const auto small = [](const std::string& parallel) {  // one rank is none
    ScenarioOptions more;
    more.overrides = {"deployment.engine=tensorrt-llm-1.2", "deployment.model=qwen3-30b-a3b",
                      "deployment.engine_args={}", "workload.limit={requests: 60}", parallel};
    const std::string file = std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml";
    return run_scenario(load_scenario(file, more).value()).value().digest;
  };
  CHECK(small("deployment.parallel={dp: 1}") == small("deployment.parallel={}"));
  CHECK(refusal({"deployment.parallel={dp: 8, ep: 8, tp: 2}"}).find("one GPU a rank") != std::string::npos);
  CHECK(refusal({"deployment.model=qwen3-8b", "deployment.parallel={dp: 8}"}).find("with experts") !=
        std::string::npos);
  CHECK(refusal({"deployment.engine_args={enable_attention_dp: false}"}).find("parallel.dp") !=
        std::string::npos);
  CHECK(refusal({"deployment.engine_args={kv_cache_config: {host_cache_size: 1000000000}}"})
            .find("offloading") != std::string::npos);
}
