// vLLM's data-parallel ranks, models with experts: who gets a request, what the ranks agree on for a step and
// what it costs, dummy batches, and that nothing leaks. Without experts: independent engines behind one front
// end. Rules cite the wheel of 0.24.0.
#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "costmodel/padding.h"
#include "sim/costed/idle_waves.h"
#include "sim/costed/run.h"
#include "sim/routers/rank_router.h"

using namespace orrery;

namespace {

constexpr std::uint64_t worlds = sanitized ? 30 : 150;

SimTime ms(std::int64_t t) { return SimTime(t * 1'000'000); }

Request numbered(std::uint64_t id, SimTime arrival = {}) {
  Request r;
  r.id = RequestId(id);
  r.arrival = arrival;
  r.prompt_tokens = r.max_output_tokens = 10;
  return r;
}

InstanceSpec mixture(std::int32_t ranks, std::int32_t ep = 1) {
  InstanceSpec spec = hand::instance(hand::mixture());
  spec.plan.dp = ranks;
  spec.plan.ep = ep;
  if (ranks > 1) spec.engine.settings.joint = {.ranks = ranks, .rule = JointRule::vllm, .pads_eager = true};
  return spec;
}

GraphPadding padding(bool v1) {
  SchedulerSettings s;
  s.cudagraph_sizes = {1, 2, 4, 8, 16, 104};
  s.joint = {.ranks = 2, .rule = JointRule::vllm, .pads_eager = v1};
  return GraphPadding(s);
}

StepShape prompt(const PrefillChunk& chunk) {
  StepShape shape;
  shape.prefill = std::span(&chunk, 1);
  return shape;
}

Result<Scenario> example(std::vector<std::string> more) {
  ScenarioOptions options;
  options.overrides = {"workload.limit={requests: 150}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-30b-a3b-h200-dp2.yaml", options);
}

std::string refusal(std::vector<std::string> more) {
  const auto s = example(std::move(more));
  return s.ok() ? "" : to_string(s.errors());
}

const OpLine& line(const StepBreakdown& b, const std::string& name) {
  const auto it = std::find_if(b.ops.begin(), b.ops.end(), [&](const OpLine& l) { return l.name == name; });
  if (it == b.ops.end()) FAIL("no line " << name);
  return *it;
}

world::RandomWorld random_ranks(std::uint64_t seed) {
  world::RandomWorld out = world::random_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 12);
  const std::int32_t ranks[] = {2, 3, 4};
  const std::int32_t dp = ranks[r.below(3)];
  const std::int32_t depth = out.world.spec.engine.steps_in_flight;
  out.world.spec = mixture(dp, dp == 3 ? 1 : dp);  // 128 experts, or a third of each of them
  out.world.spec.engine.steps_in_flight = depth;
  out.world.config.front_ends = 1 + static_cast<std::int32_t>(r.below(2));
  return out;
}

}  // namespace

// core.py, run_engine_core; only DPEngineCoreProc has _maybe_publish_request_counts.
TEST_CASE("§1.9 ranks without experts get requests in turn, anew from the first every 5 s") {
  RankRouter router(find_router("round-robin")->make(), 1, 3, 1);
  const std::vector<InstanceView> engines(3);
  std::vector<std::uint32_t> chosen;
  for (std::uint64_t i = 0; i < 7; ++i)
    chosen.push_back(router.choose(numbered(i, ms(100 + static_cast<std::int64_t>(i))), engines).value());
  CHECK(chosen == std::vector<std::uint32_t>{0, 1, 2, 0, 1, 2, 0});
  CHECK(router.choose(numbered(7, ms(4999)), engines).value() == 1);
  CHECK(router.choose(numbered(8, ms(5000)), engines).value() == 0);
  RankRouter pairs(find_router("round-robin")->make(), 2, 2, 1);
  const std::vector<InstanceView> four(4);
  chosen.clear();
  for (std::uint64_t i = 0; i < 5; ++i) chosen.push_back(pairs.choose(numbered(i, ms(100)), four).value());
  CHECK(chosen == std::vector<std::uint32_t>{0, 2, 1, 3, 0});
}

// coordinate_batch_across_dp: mode = min over ranks; with a graph everybody the widest's size. V1 sends
// padded counts and keeps them when eager; sync_cudagraph_and_dp_padding (V2) sends tokens.
TEST_CASE("§3 ranks take the least graph mode and the widest size; who has nothing brings one token") {
  const StepShape five = hand::decode(5, 50), none;
  const StepShape alone[] = {five, none};
  const JointStep decodes = padding(true).join(alone);
  CHECK(decodes.mode == GraphMode::full);
  CHECK(decodes.rank_tokens == 8);
  CHECK(decodes.gathered == 16);
  const PrefillChunk small{.new_tokens = 100, .context = 0}, large{.new_tokens = 2000, .context = 0};
  const StepShape beside[] = {five, prompt(small)};
  const JointStep pieces = padding(true).join(beside);
  CHECK(pieces.mode == GraphMode::piecewise);
  CHECK(pieces.rank_tokens == 104);
  CHECK(pieces.gathered == 208);
  const StepShape beyond[] = {five, prompt(large)};
  const JointStep v1 = padding(true).join(beyond), v2 = padding(false).join(beyond);
  CHECK(v1.mode == GraphMode::none);
  CHECK(v1.gathered == 2008);
  CHECK(padding(true).pad(five, v1).tokens == 8);
  CHECK(v2.mode == GraphMode::none);
  CHECK(v2.gathered == 2005);
  CHECK(padding(false).pad(five, v2).tokens == 5);
}

// naive_dp_ep.py, AgRsAll2AllManager: hidden states, four bytes of weight and index for each chosen expert.
TEST_CASE("bytes between ranks: rows of all to all, results dealt out again") {
  const InstanceSpec spec = mixture(4, 4);
  const StepBreakdown b = StepPricer::create(spec).value().explain(hand::decode(8, 8000));
  const double rows = 4 * 8, sent = 3.0 / 4 * 48;  // of an all-gather's result, in 48 layers
  CHECK(line(b, "dp_dispatch").link_bytes == Approx(sent * rows * (2 * 2048 + 8 * 8)));
  CHECK(line(b, "dp_combine").link_bytes == Approx(sent * rows * 2 * 2048));
  for (const OpLine& l : b.ops) CHECK(l.name.find("all_reduce") == std::string::npos);
  // Experts cut over 2 x 2 GPUs: gathered among the two ranks, and an all-reduce inside each.
  InstanceSpec wide = mixture(2);
  wide.plan.tp = 2;
  const StepBreakdown both = StepPricer::create(wide).value().explain(hand::decode(8, 8000));
  CHECK(line(both, "dp_combine").link_bytes == Approx(0.5 * 48 * 16 * 2 * 2048));
  CHECK(line(both, "moe_all_reduce").shape == "bytes=32768 ranks=2");
  // The head is whole and sees a rank's own rows; experts see all ranks' rows.
  const StepBreakdown one = StepPricer::create(mixture(1)).value().explain(hand::decode(8, 8000));
  CHECK(line(b, "lm_head").shape == line(one, "lm_head").shape);
  CHECK(line(b, "router").shape == line(one, "router").shape);
  CHECK(line(b, "moe_gate_up").flops > line(one, "moe_gate_up").flops);
}

TEST_CASE("the barrier: a long prompt on one rank lengthens the other's step to the joint step's time") {
  const StepPricer pricer = StepPricer::create(mixture(2, 2)).value();
  const PrefillChunk large{.new_tokens = 8000, .context = 0};
  const StepShape decode = hand::decode(1, 150);
  const StepShape with_large[] = {decode, prompt(large)}, alone[] = {decode, StepShape{}};
  const std::int64_t joint = pricer.price_joint(with_large).busy;
  CHECK(joint == pricer.price_joint(std::vector<StepShape>{prompt(large), decode}).busy);
  REQUIRE(joint > 5 * pricer.price_joint(alone).busy);
  world::World w;
  w.spec = mixture(2, 2);
  w.itl = true;
  world::Records records;
  w.sink = &records;
  world::run(w, {world::request(0, 0, 100, 200), world::request(1, 0.2, 8000, 2)});
  for (const RequestRecord& r : records.all) {
    if (r.request == 0) CHECK(r.itl_max >= joint);
  }
}

// DPEngineCoreProc.run_busy_loop: a rank without requests goes on with execute_dummy_batch, which waits for
// the others' next step.
TEST_CASE("a request that comes to a rank in a dummy batch misses one step of the others") {
  SchedulerConfig config{.num_gpu_blocks = 1000, .block_size = 16};
  const auto scheduler = make_instance_scheduler(*find_scheduler("vllm-v1"), config, 2);
  const auto runs = [&] {
    const StepPlan& plan = scheduler->schedule();
    REQUIRE(plan.ranks.size() == 2);
    return std::pair(plan.ranks[0].runs, plan.ranks[1].runs);
  };
  const auto update = [&] {
    const SimTime at(1);
    StepOutcome outcome;
    outcome.scheduled = 1;
    outcome.updates = std::span(&at, 1);
    scheduler->on_outcome(outcome);
  };
  CHECK(scheduler->add(numbered(0)).value() % 2 == 0);
  CHECK(runs() == std::pair(true, false));
  CHECK(runs() == std::pair(true, false));
  CHECK(scheduler->add(numbered(1)).value() % 2 == 1);
  update();
  CHECK(runs() == std::pair(true, false));  // bound by the dummy batch that it has begun
  update();
  CHECK(runs() == std::pair(true, true));
  // Beside a prompt the dummy batch takes long to launch.
  const auto fresh = make_instance_scheduler(*find_scheduler("vllm-v1"), config, 2);
  fresh->add(numbered(0));
  fresh->schedule();
  fresh->add(numbered(1));
  const StepPlan& plan = fresh->schedule();
  CHECK(plan.ranks[1].runs);
}

// _has_global_unfinished_reqs: `step_counter % 32 != 0` → go on. synchronize_input_prep: two ahead.
TEST_CASE(
    "§1.9 after the last request dummy batches go on to a multiple of 32 passes, and a newcomer waits") {
  const StepPricer pricer = StepPricer::create(mixture(2, 2)).value();
  IdleWaves waves(pricer, true, 1);
  const std::int64_t p = waves.period().ns();
  const SimTime free(1'000'000'000);
  CHECK(waves.busy_until(0, 0, SimTime(0), SimTime(5)) == SimTime(0));  // the first wave
  // 20 steps: 12 batches more. In the fourth one two more are on their way.
  CHECK(waves.busy_until(0, 20, free, free + SimDuration(3 * p + 1)) == free + SimDuration(6 * p));
  // 26 passes then, 5 steps more: one to go, long over. A new wave begins with step 25.
  CHECK(waves.busy_until(0, 25, free, free + SimDuration(100 * p)) == free + SimDuration(p));
  CHECK(waves.batches() == 7);
  CHECK(waves.busy_until(0, 26, free, free + SimDuration(100 * p)) == free + SimDuration(31 * p));
}

TEST_CASE("random worlds of vLLM's ranks: every request ends once, tokens add up, one gap a token") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    const auto [w, requests] = random_ranks(seed);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens >= limit;
    };
    world::check_conservation(w, requests, refused, visited);
  }
  CHECK(visited.cached > worlds);
  CHECK(visited.stretches > worlds);
}

TEST_CASE("single steps and stretches of vLLM's ranks decide the same, at the same nanosecond") {
  std::uint64_t stretches = 0, preemptions = 0;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    auto [w, requests] = random_ranks(seed);
    w.itl = true;
    const RunResult a = world::run(w, requests);
    w.config.stretches = false;
    const RunResult b = world::run(w, requests);
    CAPTURE(seed);
    REQUIRE(a.digest == b.digest);
    REQUIRE(a.steps == b.steps);
    w.config.stretches = true;
    REQUIRE(world::run(w, requests, seed).digest == a.digest);
    stretches += a.stretches;
    preemptions += a.preemptions;
  }
  CHECK(stretches > worlds);
  if (!sanitized) CHECK(preemptions > 0);
}

TEST_CASE("the example: two ranks with half of the experts each, from the file to the digest") {
  const Scenario s = example({}).value();
  RunOptions single;
  single.stretches = false;
  const RunResult a = run_scenario(s, {}).value(), b = run_scenario(s, single).value();
  CHECK(a.completed == 150);
  CHECK(a.digest == b.digest);
  CHECK(s.gpus() == 2);
  CHECK(a.pools.front().gpus_per_instance == 2);
  // Half of the experts, everything else whole.
  const Scenario one = example({"deployment.parallel={dp: 1}"}).value();
  double experts = 0;
  for (const LayerKind& kind : s.pool.instance.model.layer_kinds) {
    for (const WeightTensor& t : kind.weights)
      experts += t.name.starts_with("experts.") ? t.bytes().value() * static_cast<double>(kind.count) : 0;
  }
  CHECK(one.pool.memory.weights.value() - s.pool.memory.weights.value() == Approx(experts / 2));
  CHECK(one.pool.memory.kv_bytes_per_token == s.pool.memory.kv_bytes_per_token);
}

TEST_CASE("dp: 1 is what there is without it") {
  const RunResult said = run_scenario(example({"deployment.parallel={dp: 1}"}).value(), {}).value();
  const RunResult unsaid = run_scenario(example({"deployment.parallel={}"}).value(), {}).value();
  CHECK(said.digest == unsaid.digest);
}

TEST_CASE("§1.9 ranks of a model without experts are independent engines behind one front end") {
  const std::vector<std::string> dense = {"deployment.model=qwen3-8b", "workload.limit={duration_s: 4}",
                                          "workload.time_scale=20"};
  const auto with = [&](const char* parallel) {
    std::vector<std::string> more = dense;
    more.push_back(std::string("deployment.parallel=") + parallel);
    return example(more).value();
  };
  // Each of one width, or of pipeline stages.
  for (const std::string width : {"tp: 2", "pp: 2"}) {
    CAPTURE(width);
    Scenario ranks = with(("{dp: 2, " + width + "}").c_str()), copies = with(("{" + width + "}").c_str());
    CHECK(ranks.gpus() == 4);
    CHECK(ranks.pool.instance.engines == 2);
    copies.pool.replicas = 2;
    copies.pool.router.policy = "round-robin";  // as the front end does for 5 s
    const RunResult a = run_scenario(ranks, {}).value(), b = run_scenario(copies, {}).value();
    CHECK(a.completed > 20);
    CHECK(a.digest == b.digest);
    CHECK(a.pipeline.stages == b.pipeline.stages);
  }
  // arg_utils.py: several ranks have workers in processes of their own even at one GPU each.
  const StepPricer pair = StepPricer::create(with("{dp: 2}").pool.instance).value();
  const StepPricer single = StepPricer::create(with("{}").pool.instance).value();
  CHECK_FALSE(pair.launcher_is_core());
  CHECK(single.launcher_is_core());
  CHECK(pair.price(hand::decode(4, 400)).busy == single.price(hand::decode(4, 400)).busy);
}

// What a layer issues changes prices, not what is decided.
TEST_CASE("ranks that exchange rows by DeepEP, also in two batches: stretches decide what single steps do") {
  std::vector<std::uint64_t> digests;
  for (const char* args :
       {"{all2all_backend: allgather_reducescatter}", "{all2all_backend: deepep_low_latency}",
        "{all2all_backend: deepep_high_throughput}",
        "{all2all_backend: deepep_low_latency, enable_dbo: true, dbo_decode_token_threshold: 2}"}) {
    INFO(args);
    const Scenario s = example({std::string("deployment.engine_args=") + args}).value();
    RunOptions single;
    single.stretches = false;
    const RunResult a = run_scenario(s, {}).value(), b = run_scenario(s, single).value();
    CHECK(a.completed == 150);
    CHECK(a.digest == b.digest);
    digests.push_back(a.digest);
  }
  std::sort(digests.begin(), digests.end());
  CHECK(std::unique(digests.begin(), digests.end()) == digests.end());
}

TEST_CASE("what is not modelled beside vLLM's ranks is refused by name") {
  CHECK(refusal({"deployment.engine_args={all2all_backend: nixl_ep}"}).find("nixl_ep") != std::string::npos);
  CHECK(
      refusal({"deployment.parallel={dp: 2}", "deployment.engine_args={all2all_backend: deepep_low_latency}"})
          .empty());  // used with whole experts only
  CHECK(refusal({"deployment.engine_args={enable_eplb: true}"}).find("expert load balancing") !=
        std::string::npos);
  CHECK(refusal({"deployment.engine_args={kv_offloading_size: 10}"}).find("offloading of the KV cache") !=
        std::string::npos);
  CHECK(refusal({"deployment.model=qwen3-8b"}).find("has no experts") != std::string::npos);
  CHECK(refusal({"deployment.engine_args={enable_dbo: true}"}).find("all2all_backend") != std::string::npos);
  CHECK(refusal({"deployment.parallel={dp: 2, ep: 4, tp: 2}"}).empty());
  CHECK(refusal({"deployment.engine_args={data_parallel_size: 2}"}).find("parallel.dp") != std::string::npos);
}
