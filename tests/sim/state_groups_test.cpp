// Models in which some layers keep a state of every sequence: the pool and the scheduler together.
#include <algorithm>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "example_scenario.h"
#include "sim/kv_block_manager.h"
#include "world.h"

using namespace orrery;

namespace {

constexpr std::uint64_t fewer = sanitized ? 3 : 1;

// A random world with one group that attends and up to six that keep a state.
world::RandomWorld stateful_world(std::uint64_t seed) {
  world::RandomWorld w = world::random_world(seed);
  SchedulerConfig& c = w.world.config;
  c.enable_prefix_caching = false;
  c.kv_groups.states = static_cast<std::int32_t>(seed % 6) + 1;
  c.num_gpu_blocks += c.kv_groups.states;  // the memory plan lets nothing run of which one sequence does not
                                           // fit
  return w;
}

KvBlockManager pool(std::int64_t blocks, std::int32_t states) {
  KvBlockManager::Config c;
  c.num_blocks = blocks;
  c.block_size = 544;
  c.prefix_caching = false;
  c.state_groups = states;
  return KvBlockManager(c);
}

// Requests of the same length that all come at once; the most that ran together.
std::int32_t most_running(world::World w, std::int32_t prompt, std::int32_t output, std::uint64_t count) {
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < count; ++i) all.push_back(world::request(i, 0, prompt, output));
  const RunResult r = world::run(w, all);
  REQUIRE(r.completed == count);
  double most = 0;
  for (const double running : r.series.running) most = std::max(most, running);
  return static_cast<std::int32_t>(most + 0.5);
}

}  // namespace

TEST_CASE("a sequence's states are held from its start to its end") {
  KvBlockManager kv = pool(21, 3);
  const auto a = kv.open({}), b = kv.open({});
  kv.grow(a, 2);
  kv.take_states(a);
  CHECK(kv.free_blocks() == 20 - 5);
  kv.check_invariants();
  kv.grow(b, 1);
  kv.take_states(b);
  kv.grow_unattributed(1);  // of a's decodes
  CHECK(kv.free_blocks() == 20 - 5 - 4 - 1);
  kv.check_invariants();
  kv.release(a, 3, 0);
  CHECK(kv.free_blocks() == 20 - 4);
  kv.release(b, 1, 0);
  CHECK(kv.free_blocks() == 20);
  kv.check_invariants();
  // A preempted sequence takes them anew.
  kv.grow(a, 1);
  kv.take_states(a);
  CHECK(kv.free_blocks() == 16);
  kv.release(a, 1, 0);
  kv.close(a);
  kv.close(b);
  CHECK(kv.allocated_in_total() == 5 + 4 + 1 + 4);
}

TEST_CASE("so many sequences run as have states and tokens in the pool") {
  world::World w;
  w.config.block_size = 544;
  w.config.max_model_len = 5440;
  w.config.enable_prefix_caching = false;
  w.config.num_gpu_blocks = 41;
  // 500 + 20 tokens in one block: 40 without states, 40 / (1 + 3) with three groups of them.
  CHECK(most_running(w, 500, 20, 60) == 40);
  w.config.kv_groups.states = 3;
  CHECK(most_running(w, 500, 20, 60) == 10);
  // 1,000 + 20 in two blocks: 40 / 5.
  CHECK(most_running(w, 1000, 20, 60) == 8);
  w.config.kv_groups.states = 6;
  CHECK(most_running(w, 1000, 20, 60) == 5);
}

TEST_CASE("states: every request ends once, tokens add up, no block leaks") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 240 / fewer; ++seed) {
    const auto [w, requests] = stateful_world(seed);
    CAPTURE(seed);
    world::check_conservation(
        w, requests, [](const TraceRequest&) { return false; }, visited);
  }
  CHECK(visited.cached == 0);
  CHECK(visited.preemptions > 10 / fewer);
  CHECK(visited.stretches > 500 / fewer);
}

TEST_CASE("states: single steps and stretches decide the same [stretch]") {
  std::uint64_t stretches = 0;
  for (std::uint64_t seed = 1; seed <= 120 / fewer; ++seed) {
    auto [w, requests] = stateful_world(seed);
    CAPTURE(seed);
    const RunResult a = world::run(w, requests);
    w.config.stretches = false;
    const RunResult b = world::run(w, requests);
    REQUIRE(a.digest == b.digest);
    REQUIRE(a.pools[0].peak_utilization == b.pools[0].peak_utilization);
    stretches += a.stretches;
  }
  CHECK(stretches > 300 / fewer);
}

TEST_CASE("hybrid and sparse models from a scenario to the digest") {
  for (const auto& [model, more] : {std::pair{"qwen3-next-80b-a3b", "{tp: 2}"},
                                    {"qwen3-next-80b-a3b", "{dp: 2, ep: 2}"},
                                    {"qwen3-next-80b-a3b", "{pp: 2}"},
                                    {"qwen3.5-35b-a3b", "{tp: 1}"},
                                    {"nemotron-3-nano-30b-a3b", "{tp: 1}"},
                                    {"deepseek-v3.2", "{tp: 8}"},
                                    {"glm-5", "{tp: 8}"}}) {
    CAPTURE(model);
    const bool wide = std::string(model) == "glm-5";
    const Scenario s = example_at_four_times_its_rate(
        {std::string("deployment.model=") + model, std::string("deployment.parallel=") + more,
         std::string("deployment.quantization=") + (wide                                    ? "fp8-block"
                                                    : std::string(model) == "deepseek-v3.2" ? "fp8-block"
                                                                                            : "bf16"),
         "workload.limit={requests: 120}"});
    const RunResult a = run(s), single = run(s, false);
    CHECK(a.completed + a.rejected == 120);
    CHECK(a.completed > 80);
    CHECK(a.digest == single.digest);
  }
}
