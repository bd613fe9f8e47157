// Pipeline stages under SGLang's rules: the ring of micro-batches, what a stage waits for, and that nothing
// is lost. Rules cite managers/scheduler_pp_mixin.py of 0.5.23.
#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "costmodel/stages.h"
#include "ring_loop.h"
#include "sim/costed/run.h"
#include "sim/schedulers/sglang.h"

using namespace orrery;
using namespace orrery::world;

namespace {

constexpr std::uint64_t worlds = sanitized ? 20 : 100;

void set_stages(World& w, std::int32_t pp, std::int32_t more = 0) {
  w.spec.plan.pp = pp;
  w.spec.engine.engine = "sglang";
  w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(0)};
  w.spec.engine.steps_in_flight = pp + more;
  w.config.pipeline = {.stages = pp, .micro_batches = pp + more};
}

RandomWorld random_stages(std::uint64_t seed) {
  RandomWorld out = random_sglang_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 21);
  set_stages(out.world, static_cast<std::int32_t>(2 + r.below(3)), static_cast<std::int32_t>(r.below(3)));
  if (r.below(2) == 0)
    out.world.config.options.set("pp_max_micro_batch_size", static_cast<std::int64_t>(1 + r.below(12)));
  // A pool that other micro-batches fill too: the engine aborts who is left alone without room.
  out.world.config.num_gpu_blocks = 60000 / out.world.config.block_size;
  return out;
}

Loop loop_of(std::int32_t pp, std::int32_t more, std::int64_t chunk, std::int64_t micro_batch = 8) {
  SglangConfig c;
  c.cache.tokens = 100000;
  c.overlap = false;
  c.chunked_prefill_size = chunk;
  c.micro_batches = pp + more;
  c.micro_batch_size = micro_batch;
  return Loop(std::make_unique<SglangScheduler>(c));
}

}  // namespace

// Two stages, two micro-batches. Turn by turn: get_next_batch_to_run for mb_id, then the result of (mb_id +
// 1) % 2 if it has one in flight.
TEST_CASE("a request stays in the micro-batch in which its prompt ended, and micro-batches take turns") {
  Loop loop = loop_of(2, 0, 8192);
  loop.add(100, 3);
  CHECK(loop.turn() == "0:100@0 on");  // 0: prefill; 1 has nothing in flight
  loop.add(50, 2);
  CHECK(loop.turn() == "1:50@0 then");  // 1: prefill; then the result of 0
  CHECK(loop.turn() == "0 then");       // 0: decodes; then 1's first token
  CHECK(loop.turn() == "1 then");
  CHECK(loop.turn() == "0 then; end 1");
  // Micro-batch 1 has nobody: passed over, and the loop stands at 0, whose result it waits for.
  CHECK(loop.turn() == "wait; end 0");
  CHECK(loop.turn() == "idle");
}

// stash_chunked_request and `self.chunked_req`: of the scheduler, not of a micro-batch; reqs_to_exclude drops
// it from the batches that it leaves behind.
TEST_CASE("a prompt's chunks follow one another through the micro-batches without waiting for a result") {
  Loop loop = loop_of(3, 0, 100);
  loop.add(250, 2);
  CHECK(loop.turn() == "0:100@0 on");
  CHECK(loop.turn() == "0:100@100 on");
  CHECK(loop.turn() == "0:50@200 then");  // place 0's result next
  CHECK(loop.turn() == "wait");           // 0 has nobody to run: at place 1, whose chunk is awaited
  CHECK(loop.turn() == "wait");           // 1 neither: the last chunk's first token
  CHECK(loop.turn() == "0 on");           // it decodes in place 2, where its prompt ended
  CHECK(loop.turn() == "wait; end 0");
}

// get_num_allocatable_reqs: pp_max_micro_batch_size − the micro-batch's running requests.
TEST_CASE("a micro-batch has so many requests at most, and others go to the next") {
  Loop loop = loop_of(2, 0, 8192, 2);
  for (int i = 0; i < 5; ++i) loop.add(10, 5);
  CHECK(loop.turn() == "0:10@0 1:10@0 on");
  CHECK(loop.turn() == "2:10@0 3:10@0 then");
  CHECK(loop.turn() == "0 1 then");
  CHECK(loop.turn() == "2 3 then");
}

TEST_CASE("pp_async_batch_depth adds places to the ring") {
  Loop loop = loop_of(2, 1, 8192, 1);
  for (int i = 0; i < 3; ++i) loop.add(10, 5);
  CHECK(loop.turn() == "0:10@0 on");
  CHECK(loop.turn() == "1:10@0 on");
  CHECK(loop.turn() == "2:10@0 then");
  CHECK(loop.turn() == "0 then");
}

// distributed/utils.py: "the last N partitions will have one extra layer".
TEST_CASE("layers that do not divide go to the last stages on SGLang, to the first on TensorRT-LLM") {
  using Stages = std::vector<std::int64_t>;
  CHECK(layers_of_stages(61, 4, "sglang") == Stages{15, 15, 15, 16});
  CHECK(layers_of_stages(63, 4, "sglang") == Stages{15, 16, 16, 16});
  CHECK(layers_of_stages(61, 4, "tensorrt-llm") == Stages{16, 15, 15, 15});
}

TEST_CASE("random worlds of micro-batches: every request ends once, tokens add up, gaps are complete") {
  Visited visited;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    const auto [w, requests] = random_stages(seed);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    check_conservation(w, requests, refused, visited);
    if (seed % 5 == 0) {
      const std::uint64_t digest = run(w, requests).digest;
      REQUIRE(run(w, requests, seed).digest == digest);  // whatever the order of what comes at once
    }
  }
  CHECK(visited.cached > worlds);
  CHECK(visited.eos > worlds);
}

// By hand, microseconds: two stages of 100, launches of 10, schedule 5, update 20, a message of 1, the rest
// 0. Step 0 alone: launched at 5 to 15, on the device from 5 to 105; stage 1 is told at 16, launches, and has
// it from 105 to 205.
TEST_CASE("the ring's recurrence: a full ring hands on behind the awaited result") {
  constexpr std::int64_t us = 1000;
  StagedTiming t;
  t.host.schedule = 5 * us;
  t.host.update = 20 * us;
  t.stages.assign(2, StageTiming{.launch = 10 * us, .busy = 100 * us});
  const StageRules rules{
      .stages = 2, .message = SimDuration(us), .tokens_back = {}, .empty_wait = {}, .ring = true};
  RingPipeline ring(rules);
  StepTimes a = ring.begin(t, SimTime(0), nullptr);
  CHECK(a.device_end.ns() == 205 * us);
  CHECK(ring.core_free().ns() == 15 * us);
  // Step 1 waits for step 0's result (at 205) before stage 1 is told: 205 + 20 + 1, though stage 0 ends it at
  // 205.
  const AwaitedStep awaited{t.host, a};
  const StepTimes b = ring.begin(t, ring.core_free(), &awaited);
  CHECK(ring.core_free().ns() == 30 * us);
  CHECK(b.device_end.ns() == 326 * us);
  ring.update(t.host, a);
  CHECK(a.update_end.ns() == 225 * us);
  CHECK(ring.core_free().ns() == 225 * us);
  // Without anybody to wait for it would have followed at once: on stage 1 from 205 on.
  RingPipeline free(rules);
  free.begin(t, SimTime(0), nullptr);
  CHECK(free.begin(t, free.core_free(), nullptr).device_end.ns() == 305 * us);
  // TensorRT-LLM says what is to run before it launches: nothing waits for a result.
  RingPipeline told({.stages = 2,
                     .message = SimDuration(us),
                     .tokens_back = {},
                     .empty_wait = {},
                     .ring = true,
                     .tells_first = true});
  const StepTimes c = told.begin(t, SimTime(0), nullptr);
  CHECK(c.device_end.ns() == 205 * us);
  const AwaitedStep first{t.host, c};
  CHECK(told.begin(t, told.core_free(), &first).device_end.ns() == 305 * us);
}

TEST_CASE("a scenario with SGLang's pipeline stages: memory of a stage, its places, and what is refused") {
  const auto load = [](std::vector<std::string> more) {
    ScenarioOptions options;
    options.overrides = {"deployment.engine=sglang-0.5", "workload.limit={requests: 100}"};
    options.overrides.insert(options.overrides.end(), more.begin(), more.end());
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-32b-h200-pp2.yaml", options);
  };
  const Scenario s = load({}).value();
  CHECK(s.pool.memory.stage_blocks.size() == 2);
  CHECK(s.pool.memory.kv_blocks ==
        *std::min_element(s.pool.memory.stage_blocks.begin(), s.pool.memory.stage_blocks.end()));
  CHECK(s.pool.scheduler_config().pipeline.micro_batches == 2);
  CHECK(s.pool.instance.engine.settings.prefill_graph_sizes.empty());
  const RunResult a = run_scenario(s).value();
  CHECK(a.completed == 100);
  CHECK(run_scenario(s).value().digest == a.digest);
  // One stage is none.
  CHECK(run_scenario(load({"deployment.parallel={pp: 1}"}).value()).value().digest ==
        run_scenario(load({"deployment.parallel={}"}).value()).value().digest);
  const Scenario deeper =
      load({"deployment.engine_args={pp_async_batch_depth: 1, pp_max_micro_batch_size: 4}"}).value();
  CHECK(deeper.pool.scheduler_config().pipeline.micro_batches == 3);
  const auto refusal = [&](std::vector<std::string> more) {
    const auto r = load(std::move(more));
    return r.ok() ? "" : to_string(r.errors());
  };
  CHECK(refusal({"deployment.engine_args={enable_dynamic_chunking: true}"}).find("chunks of changing size") !=
        std::string::npos);
  CHECK(refusal({"deployment.engine_args={enable_priority_scheduling: true}"}).find("pipeline stages") !=
        std::string::npos);
  CHECK(refusal({"deployment.engine_args={enable_hierarchical_cache: true}"}).find("pipeline stages") !=
        std::string::npos);
}
