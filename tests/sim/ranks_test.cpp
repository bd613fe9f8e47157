// Ranks of attention data parallelism: nothing leaks, a stretch decides what single steps decide, and a rank
// waits for the slowest.
#include <map>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "ranks_world.h"
#include "sim/costed/run.h"
#include "sim/rank_scheduler.h"

using namespace orrery;

namespace {

constexpr std::uint64_t worlds = sanitized ? 40 : 200;

StepShape prompt(const PrefillChunk& chunk) {
  StepShape shape;
  shape.prefill = std::span(&chunk, 1);
  return shape;
}

Scenario example(std::vector<std::string> more = {}) {
  ScenarioOptions options;
  options.overrides = {"workload.limit={requests: 200}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  auto s = load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml", options);
  if (!s.ok()) FAIL(to_string(s.errors()));
  return std::move(s).value();
}

std::string refusal(std::vector<std::string> more) {
  ScenarioOptions options;
  options.overrides = std::move(more);
  const auto s =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml", options);
  return s.ok() ? "" : to_string(s.errors());
}

}  // namespace

TEST_CASE("random worlds: every request ends once on some rank, tokens add up, one gap a token") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    const auto [w, requests] = world::random_rank_world(seed);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
  }
  CHECK(visited.cached > worlds);
  CHECK(visited.eos > worlds);
  CHECK(visited.stretches > worlds);
}

TEST_CASE("single steps and stretches of ranks decide the same, at the same nanosecond") {
  std::uint64_t stretches = 0, preemptions = 0;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    auto [w, requests] = world::random_rank_world(seed);
    CAPTURE(seed);
    const RunResult a = world::check_stretches(w, requests, seed);
    stretches += a.stretches;
    preemptions += a.preemptions;
  }
  CHECK(stretches > worlds);
  if (!sanitized) CHECK(preemptions > 0);  // fewer worlds there
}

TEST_CASE("ranks with equal loads do in step what one rank with the load of one does") {
  std::vector<TraceRequest> one, four;
  const std::int32_t prompts[] = {900, 40, 2000, 300}, outputs[] = {30, 200, 7, 90};
  for (std::uint64_t i = 0; i < 4; ++i) {
    one.push_back(world::request(i, 0, prompts[i], outputs[i]));
    for (std::uint64_t copy = 0; copy < 4; ++copy)
      four.push_back(world::request(4 * i + copy, 0, prompts[i], outputs[i]));
  }
  world::World w;
  w.scheduler = "sglang";
  w.config.block_size = 1;
  w.spec = world::rank_spec(1);
  const RunResult alone = world::run(w, one);
  world::Records records;
  w.spec = world::rank_spec(4);
  w.sink = &records;
  const RunResult ranks = world::run(w, four);
  CHECK(ranks.steps == alone.steps);
  CHECK(ranks.stretches == alone.stretches);
  std::map<std::uint64_t, SimDuration> ends;
  for (const RequestRecord& r : records.all) {
    const auto [it, is_new] = ends.emplace(r.request / 4, r.e2e);
    CHECK(it->second == r.e2e);
  }
  CHECK(ends.size() == 4);
}

TEST_CASE("the barrier: a long prompt on one rank lengthens the other's step to the joint step's time") {
  world::World w;
  w.scheduler = "sglang";
  w.config.block_size = 1;
  w.config.options.set("chunked_prefill_size", std::int64_t{8192});
  w.spec = world::rank_spec(2);
  w.itl = true;
  const auto longest_gap = [&](std::int32_t prompt_tokens) {
    world::Records records;
    w.sink = &records;
    world::run(w, {world::request(0, 0, 100, 200), world::request(1, 0.2, prompt_tokens, 2)});
    for (const RequestRecord& r : records.all) {
      if (r.request == 0) return r.itl_max;
    }
    return std::int64_t{0};
  };
  const StepPricer pricer = StepPricer::create(w.spec).value();
  const PrefillChunk small{.new_tokens = 8, .context = 0}, large{.new_tokens = 8000, .context = 0};
  const StepShape decode = hand::decode(1, 150);
  const StepShape with_small[] = {decode, prompt(small)}, with_large[] = {decode, prompt(large)};
  const std::int64_t more = pricer.price_joint(with_large).busy - pricer.price_joint(with_small).busy;
  REQUIRE(more > 20'000'000);
  const std::int64_t gained = longest_gap(8000) - longest_gap(8);
  // Steps with prompts are launched kernel by kernel: what the host takes longer than the small one's device
  // is missing from the gain.
  CHECK(gained <= more * 105 / 100);
  CHECK(gained >= more * 50 / 100);
  // The decoding rank by itself would not have noticed.
  const StepShape alone[] = {decode, StepShape{}};
  CHECK(pricer.price_joint(alone).busy * 5 < pricer.price_joint(with_large).busy);
}

// DpPaddingMode, get_default_mode_in_cuda_graph: padded counts of all ranks decide.
// get_dp_padding_mode: MAX_LEN iff 2·sum ≥ max·dp, when the sum does not fit or a rank is idle.
// _local_prefill_cuda_graph_vote, _has_inactive_dp_rank, prepare_mlp_sync_batch.
// round_robin_scheduler of data_parallel_controller.py.
TEST_CASE("requests go to each rank in turn") {
  SchedulerConfig config{.num_gpu_blocks = 10000, .block_size = 1};
  const auto scheduler = make_instance_scheduler(*find_scheduler("sglang"), config, 3);
  CHECK(scheduler->lanes() == 3);
  for (std::uint32_t i = 0; i < 5; ++i) {
    Request r;
    r.id = RequestId(i);
    r.prompt_tokens = r.max_output_tokens = 10;
    CHECK(scheduler->add(r).value() % 3 == i % 3);
  }
  const StepPlan& plan = scheduler->schedule();
  REQUIRE(plan.ranks.size() == 3);
  CHECK(plan.prefill.size() == 5);
  CHECK(plan.ranks[0].prefills == 2);
  CHECK(plan.ranks[2].prefills == 1);
  CHECK(plan.tokens() == 50);
  CHECK(scheduler->view().running == 5);
}

TEST_CASE("the example: DeepSeek-V3 over eight ranks, from the file to the digest") {
  const Scenario s = example();
  RunOptions single;
  single.stretches = false;
  const RunResult a = run_scenario(s, {}).value(), b = run_scenario(s, single).value();
  CHECK(a.completed == 200);
  CHECK(a.digest == b.digest);
  CHECK(a.pools.front().gpus_per_instance == 8);
  // parallel_hook.py: a rank has an eighth of the chunk, and admits as if futures weighed 0.3.
  const NamedOptions& o = s.pool.instance.engine.settings.options;
  CHECK(o.integer("chunked_prefill_size") == 8192 / 8);
  CHECK(o.number("schedule_conservativeness") == Approx(0.3));
  CHECK(s.pool.instance.engine.settings.prefill_graph_sizes.back() == 1024);
  CHECK(example({"deployment.engine_args={context_length: 16384, max_running_requests: 256}"})
            .pool.memory.max_sequences == 32);
}

TEST_CASE("the memory of a rank: attention whole, everything else an eighth") {
  const Scenario ranks = example(), tensor = example({"deployment.parallel={tp: 8, ep: 8}"});
  const ModelSpec& m = ranks.pool.instance.model;
  CHECK(ranks.pool.memory.kv_bytes_per_token == tensor.pool.memory.kv_bytes_per_token);  // latents are whole
  double attention = 0;
  for (const LayerKind& kind : m.layer_kinds) {
    for (const WeightTensor& t : kind.weights) {
      if (t.name == "q_b_proj" || t.name == "kv_b_proj" || t.name == "o_proj")
        attention += t.bytes().value() * static_cast<double>(kind.count);
    }
  }
  double embedding = 0;
  for (const WeightTensor& t : m.global_weights)
    embedding += t.name == "embed_tokens" ? t.bytes().value() : 0;
  const double copies = 61.0 * 128 * 512 * (128 + 128) * 2;
  const double more = ranks.pool.memory.weights.value() - tensor.pool.memory.weights.value();
  CHECK(more == Approx(7.0 / 8 * (attention + embedding + copies)).epsilon(1e-3));
}

// Steps with prompts exchange rows by other kernels than the rest, and two batches need ranks with the same
// kind of work.
TEST_CASE("ranks that exchange rows by DeepEP, also in two batches: stretches decide what single steps do") {
  std::vector<std::uint64_t> digests;
  for (const char* args :
       {"{context_length: 16384}", "{context_length: 16384, moe_a2a_backend: deepep}",
        "{context_length: 16384, moe_a2a_backend: deepep, enable_two_batch_overlap: true}"}) {
    INFO(args);
    const Scenario s = example({std::string("deployment.engine_args=") + args});
    RunOptions single;
    single.stretches = false;
    const RunResult a = run_scenario(s, {}).value(), b = run_scenario(s, single).value();
    CHECK(a.completed == 200);
    CHECK(a.digest == b.digest);
    digests.push_back(a.digest);
  }
  CHECK(digests[0] != digests[1]);
  CHECK(digests[1] != digests[2]);
}

TEST_CASE("what is not modelled beside ranks is refused by name") {
  CHECK(refusal({"deployment.parallel={tp: 16, dp: 8}"}).find("deployment.topology") != std::string::npos);
  CHECK(refusal({"deployment.parallel={dp: 513}"}).find("more than 512 ranks") != std::string::npos);
  CHECK(refusal({"deployment.parallel={dp: 8, ep: 3}"}).find("tp x dp = 8") != std::string::npos);
  CHECK(refusal({"deployment.speculation={method: mtp, tokens: 1, acceptance: [0.8]}"})
            .find("speculation is not modelled under") != std::string::npos);
  CHECK(refusal({"deployment.engine_args={enable_attn_tp_input_scattered: true}"}).find("another layout") !=
        std::string::npos);
  CHECK(refusal({"deployment.engine_args={load_balance_method: follow_bootstrap_room}"})
            .find("prefill and decode pools") != std::string::npos);
}
