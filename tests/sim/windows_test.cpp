// Models in which some layers see a window of tokens only: the scheduler and the pool together.
#include <algorithm>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "sglang_features_world.h"
#include "world.h"

using namespace orrery;

namespace {

constexpr std::uint64_t fewer = sanitized ? 3 : 1;  // under a sanitizer: a third of the worlds

// A random world whose layers fall into groups as gpt-oss's, Gemma 3's and Mistral's do.
world::RandomWorld windowed_world(std::uint64_t seed) {
  world::RandomWorld w = world::random_world(seed);
  SchedulerConfig& c = w.world.config;
  const std::int32_t windows[] = {16, 33, 128, 512, 1000};
  const KvGroups kinds[] = {
      {.full = 1, .windowed = 1}, {.full = 1, .windowed = 5}, {.full = 0, .windowed = 1}};
  c.kv_groups = kinds[seed % 3];
  c.kv_groups.window = windows[seed % 5];
  // Every request must fit, as the memory plan sees to: the random worlds make sure of that for one group.
  c.num_gpu_blocks = (c.num_gpu_blocks + 80) * c.kv_groups.count();
  return w;
}

}  // namespace

TEST_CASE("windows: every request ends once, tokens add up, no block leaks") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 300 / fewer; ++seed) {
    const auto [w, requests] = windowed_world(seed);
    CAPTURE(seed);
    world::check_conservation(
        w, requests, [](const TraceRequest&) { return false; }, visited);
  }
  CHECK(visited.preemptions > 20 / fewer / 2);
  CHECK(visited.cached > 1000 / fewer / 2);
  CHECK(visited.stretches > 1000 / fewer / 2);
}

TEST_CASE("windows: single steps and stretches decide the same, at the same nanosecond [stretch]") {
  std::uint64_t stretches = 0;
  for (std::uint64_t seed = 1; seed <= 150 / fewer; ++seed) {
    auto [w, requests] = windowed_world(seed);
    CAPTURE(seed);
    const RunResult a = world::run(w, requests);
    w.config.stretches = false;
    const RunResult b = world::run(w, requests);
    REQUIRE(b.stretches == 0);
    REQUIRE(a.digest == b.digest);
    REQUIRE(a.pools[0].peak_utilization == b.pools[0].peak_utilization);
    stretches += a.stretches;
  }
  CHECK(stretches > 1000 / fewer / 2);
}

TEST_CASE("a window as long as the model is no window") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    auto [w, requests] = world::random_world(seed);
    CAPTURE(seed);
    const RunResult plain = world::run(w, requests);
    w.config.kv_groups = {
        .full = 0, .windowed = 1, .window = static_cast<std::int32_t>(w.config.max_model_len) + 1};
    // One block more than the sequence may be reckoned at admission, nothing else.
    const RunResult windowed = world::run(w, requests);
    CHECK(windowed.output_tokens == plain.output_tokens);
    if (plain.preemptions == 0 && windowed.preemptions == 0) CHECK(windowed.last_finish == plain.last_finish);
  }
}

// The engine holds ⌈(window − 1) / block⌉ blocks and one for the odd end while it decodes.
TEST_CASE("§2.7 a decoding sequence holds its window and no more") {
  world::World w;
  w.config.kv_groups = {.full = 0, .windowed = 1, .window = 128};
  w.config.num_gpu_blocks = 1001;
  w.config.max_num_batched_tokens = 64;
  const RunResult r = world::run(w, {world::request(0, 0, 3000, 2000)});
  CHECK(r.completed == 1);
  // 64 new tokens and 127 before them: 12 blocks, 13 when they begin inside one.
  CHECK(r.pools[0].peak_utilization <= 13.0 / 1000 + 1e-12);
  CHECK(r.pools[0].peak_utilization >= 12.0 / 1000 - 1e-12);
  w.config.kv_groups = {};
  CHECK(world::run(w, {world::request(0, 0, 3000, 2000)}).pools[0].peak_utilization == Approx(313.0 / 1000));
}

TEST_CASE("windows make room: a pool that preempts without them serves all with them") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 24; ++i) requests.push_back(world::request(i, 0, 2000, 600));
  world::World w;
  w.config.num_gpu_blocks = 2400;
  CHECK(world::run(w, requests).preemptions > 0);
  w.config.kv_groups = {.full = 0, .windowed = 1, .window = 256};
  CHECK(world::run(w, requests).preemptions == 0);
}

TEST_CASE("windows beside drafts: every request ends once, tokens add up, no block leaks") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 200 / fewer; ++seed) {
    auto [w, requests] = windowed_world(seed);
    RandomStream random(seed, RandomPurpose::property_test, 11);
    world::speculate(w, random);
    w.config.num_gpu_blocks += 64 * w.config.kv_groups.count();
    CAPTURE(seed);
    world::check_conservation(
        w, requests, [](const TraceRequest&) { return false; }, visited);
  }
  CHECK(visited.preemptions > (fewer > 1 ? 0 : 5));  // rare: one in the worlds of a sanitizer's run
  CHECK(visited.cached > 500 / fewer / 2);
  CHECK(visited.accepted > 1000 / fewer / 2);
  CHECK(visited.rejected_drafts > 1000 / fewer / 2);
}

// A verification is given slots for its own tokens and, with a network, for as many more: 127 + 4 + 3 tokens
// lie in at most ten blocks of 16, and the window is given back by the known tokens and those in flight.
TEST_CASE("a sequence that verifies drafts holds its window and its drafts, and no more") {
  world::World w;
  w.config.kv_groups = {.full = 0, .windowed = 1, .window = 128};
  w.config.num_gpu_blocks = 1001;
  w.config.max_num_batched_tokens = 16;
  world::draft(w, {.tokens = 3, .lookahead = 3, .drops_last_hit = true}, {0.7, 0.7, 0.7}, 1);
  const RunResult r = world::run(w, {world::request(0, 0, 3000, 2000)});
  CHECK(r.completed == 1);
  CHECK(r.output_tokens == 2000);
  CHECK(r.pools[0].peak_utilization <= 11.0 / 1000 + 1e-12);
  CHECK(r.pools[0].peak_utilization >= 9.0 / 1000 - 1e-12);
}
