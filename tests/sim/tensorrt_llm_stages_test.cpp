// Pipeline stages under TensorRT-LLM's rules: the ring of micro-batches over one list of active requests, and
// that nothing is lost. Rules cite PyExecutor._executor_loop_pp and ../shared/reference/tensorrt_llm_1_2.md
// §1.3.
#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "ring_loop.h"
#include "sim/costed/run.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "tensorrt_llm_world.h"

using namespace orrery;
using namespace orrery::world;

namespace {

constexpr std::uint64_t worlds = sanitized ? 20 : 100;

Loop loop_of(std::int32_t pp, std::int64_t batch, std::int64_t tokens, std::int64_t blocks = 1000) {
  SchedulerConfig c{.max_num_batched_tokens = tokens,
                    .max_num_seqs = batch,
                    .max_model_len = 40960,
                    .num_gpu_blocks = blocks,
                    .block_size = 32,
                    .enable_chunked_prefill = true,
                    .steps_in_flight = pp};
  c.pipeline = {.stages = pp, .micro_batches = pp};
  return Loop(std::make_unique<TensorRtLlmScheduler>(c));
}

RandomWorld random_stages(std::uint64_t seed) {
  RandomWorld out = tensorrt_llm_world(seed);
  RandomStream r(seed, RandomPurpose::property_test, 22);
  World& w = out.world;
  const auto pp = static_cast<std::int32_t>(2 + r.below(3));
  w.spec.plan.pp = pp;
  w.spec.engine.engine = "tensorrt-llm";
  w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(0)};
  w.spec.engine.steps_in_flight = pp;
  w.config.pipeline = {.stages = pp, .micro_batches = pp};
  w.config.tensorrt_llm.max_utilization = false;
  return out;
}

}  // namespace

// Turn by turn: schedule without those in flight, then finalise (microbatch_id + 1) % 2.
TEST_CASE("who is in flight is passed over, and whoever is not goes into the next micro-batch") {
  Loop loop = loop_of(2, 64, 8192);
  loop.add(100, 3);
  CHECK(loop.turn() == "0:100@0 on");  // place 0
  loop.add(50, 2);
  CHECK(loop.turn() == "1:50@0 then");  // place 1; then the result of 0
  CHECK(loop.turn() == "0 then");       // place 0; then 1's first token
  CHECK(loop.turn() == "1 then");
  CHECK(loop.turn() == "0 then; end 1");
  CHECK(loop.turn() == "wait; end 0");  // place 1 has nobody: on to place 0, which is in flight
  CHECK(loop.turn() == "idle");
  CHECK(loop.free() == 1000);
}

// `_add_inflight_ids`: of contexts those whose last chunk it is.
TEST_CASE("a prompt's chunks fill successive places, its last chunk alone keeps it in flight") {
  Loop loop = loop_of(3, 64, 64);
  loop.add(150, 2);
  CHECK(loop.turn() == "0:64@0 on");
  CHECK(loop.turn() == "0:64@64 on");
  CHECK(loop.turn() == "0:22@128 then");  // the first chunk's result
  CHECK(loop.turn() == "wait");           // place 0 has nobody: on to place 1, the second chunk's
  CHECK(loop.turn() == "wait");           // place 1 neither: place 2, the first token
  CHECK(loop.turn() == "0 on");
  CHECK(loop.turn() == "wait; end 0");
}

// §1.1: max_batch_size · pp_size are active; §1.3: max_batch_size is a micro-batch's.
TEST_CASE("as many requests are active as all micro-batches hold, and a micro-batch holds its own") {
  Loop loop = loop_of(2, 1, 8192);
  loop.add(10, 3);
  CHECK(loop.turn() == "0:10@0 on");
  loop.add(20, 3);
  loop.add(30, 3);
  CHECK(loop.turn() == "1:20@0 then");  // 2 waits: two are active
  CHECK(loop.turn() == "0 then");
  CHECK(loop.turn() == "1 then");
  CHECK(loop.turn() == "0 then");
  CHECK(loop.turn() == "1 then; end 0");
  CHECK(loop.turn() == "2:30@0 then; end 1");
}

TEST_CASE("random worlds of TensorRT-LLM's micro-batches: every request ends once, tokens add up [trtllm]") {
  Visited visited;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    const auto [w, requests] = random_stages(seed);
    CAPTURE(seed);
    const auto refused = [&config = w.config](const TraceRequest& q) {
      return !config.enable_chunked_prefill && q.prompt_tokens > config.max_num_batched_tokens;
    };
    check_conservation(w, requests, refused, visited);
    if (seed % 5 == 0) {
      const std::uint64_t digest = run(w, requests).digest;
      REQUIRE(run(w, requests, seed).digest == digest);
    }
  }
  CHECK(visited.preemptions == 0);
  CHECK(visited.eos > worlds);
}

TEST_CASE("a scenario with TensorRT-LLM's pipeline stages: its places, and what is refused [trtllm]") {
  const auto load = [](std::vector<std::string> more) {
    ScenarioOptions options;
    options.overrides = {"deployment.engine=tensorrt-llm-1.2", "workload.limit={requests: 100}"};
    options.overrides.insert(options.overrides.end(), more.begin(), more.end());
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-32b-h200-pp2.yaml", options);
  };
  const Scenario s = load({}).value();
  CHECK(s.pool.memory.stage_blocks.size() == 2);
  CHECK(s.pool.scheduler_config().pipeline.micro_batches == 2);
  const RunResult a = run_scenario(s).value();
  CHECK(a.completed == 100);
  CHECK(run_scenario(s).value().digest == a.digest);
  CHECK(run_scenario(load({"deployment.parallel={pp: 1}"}).value()).value().digest ==
        run_scenario(load({"deployment.parallel={}"}).value()).value().digest);
  const auto refused =
      load({"deployment.engine_args={scheduler_config: {capacity_scheduler_policy: MAX_UTILIZATION}}"});
  REQUIRE(!refused.ok());
  CHECK(to_string(refused.errors()).find("MAX_UTILIZATION") != std::string::npos);
}
