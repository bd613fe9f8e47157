// SGLang's load-aware choice of a rank: by hand on what ranks publish and when (sglang 0.5.23,
// managers/data_parallel_controller.py and Scheduler.publish_load_snapshot), and in whole worlds.
#include "sim/sglang_balancer.h"

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "ranks_world.h"

using namespace orrery;

namespace {

class Desk {
 public:
  Desk(std::size_t ranks, bool by_tokens)
      : loads(ranks), balancer(ranks, {.by_tokens = by_tokens}, [this](std::size_t r) { return loads[r]; }) {}
  std::size_t at(std::int64_t ms, std::int32_t prompt = 100) {
    Request r;
    r.arrival = SimTime(ms * 1'000'000);
    r.prompt_tokens = prompt;
    return balancer.choose(r);
  }
  std::vector<PublishedLoad> loads;
  SglangBalancer balancer;
};

world::RandomWorld balanced_world(std::uint64_t seed) {
  world::RandomWorld out = world::random_rank_world(seed);
  NamedOptions& o = out.world.config.options;
  o.set("load_balance_method", std::string(seed % 2 == 0 ? "total_requests" : "total_tokens"));
  o.set("load_snapshot_publish_interval", static_cast<std::int64_t>(1 + seed % 20));
  return out;
}

}  // namespace

// DPBudget.dispatch: "Increment the load of that worker by one as a heuristic".
TEST_CASE("a burst is dealt out by what the controller counts itself") {
  Desk desk(3, false);
  for (const std::size_t rank : {0u, 1u, 2u, 0u, 1u, 2u, 0u}) CHECK(desk.at(5) == rank);
}

// refresh_load_budget: at most once per 20 ms.
TEST_CASE("what a rank published is read 20 ms after the last reading, and no sooner") {
  Desk desk(2, false);
  CHECK(desk.at(100) == 0);
  desk.loads = {{0, 0}, {7, 0}};  // rank 1 had requests of before
  desk.balancer.processing(1, true);
  CHECK(desk.at(119) == 1);  // by its own count: 1 and 0
  CHECK(desk.at(120) == 0);  // now 1 and 7
  for (int i = 0; i < 5; ++i) CHECK(desk.at(121) == 0);
  CHECK(desk.at(122) == 0);  // 7 and 7: the first of equals
  CHECK(desk.at(122) == 1);
}

// update_budget: a snapshot that was read before changes nothing, so that the own count goes on.
TEST_CASE("a rank that published nothing new keeps what the controller counted") {
  Desk desk(2, false);
  desk.loads = {{3, 0}, {0, 0}};
  desk.balancer.processing(0, true);
  desk.balancer.processing(1, true);
  CHECK(desk.at(0) == 1);
  CHECK(desk.at(50) == 1);
  CHECK(desk.at(100) == 1);
  CHECK(desk.at(150) == 0);  // 3 and 3
}

// publish_load_snapshot(force=batch.forward_mode.is_extend()), load_snapshot_publish_interval 15.
TEST_CASE("steps without prompts publish every 15th time") {
  Desk desk(2, false);
  desk.loads = {{9, 0}, {0, 0}};
  for (int i = 0; i < 14; ++i) desk.balancer.processing(0, false);
  CHECK(desk.at(0) == 0);  // nobody has said anything
  desk.balancer.processing(0, false);
  CHECK(desk.at(20) == 1);
  desk.balancer.idle();
  CHECK(desk.at(40) == 0);
}

// total_tokens: inputs are added to the own count; requests decide between equals.
TEST_CASE("by tokens a long prompt weighs as much as many short ones") {
  Desk desk(2, true);
  CHECK(desk.at(0, 1000) == 0);
  for (int i = 0; i < 10; ++i) CHECK(desk.at(1, 100) == 1);
  CHECK(desk.at(1, 100) == 0);  // 1000 tokens each: one request for ten
  CHECK(desk.at(1, 100) == 1);
}

TEST_CASE(
    "random worlds under load-aware balancing: nothing leaks, the order of what comes at once is no matter") {
  world::Visited visited;
  constexpr std::uint64_t worlds = sanitized ? 10 : 60;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    auto [w, requests] = balanced_world(seed);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
    const RunResult r = world::run(w, requests);
    CHECK(r.stretches == 0);  // each step may publish
    CHECK(world::run(w, requests, seed).digest == r.digest);
    w.config.stretches = false;
    CHECK(world::run(w, requests).digest == r.digest);
  }
  CHECK(visited.cached > worlds / 2);
}

// Every second request is long: in turn, all of them go to one of two ranks, whose pool holds four of them.
TEST_CASE("where turns are unfair, the load-aware ways are not") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 40; ++i)
    requests.push_back(world::request(i, 0.05 * static_cast<double>(i), 200, i % 2 == 0 ? 1500 : 5));
  const auto slowest = [&](const char* method) {
    world::World w;
    w.scheduler = "sglang";
    w.config.block_size = 1;
    w.config.num_gpu_blocks = 8000;
    w.config.max_model_len = 4000;
    w.spec = world::rank_spec(2);
    w.config.options.set("load_balance_method", std::string(method));
    return world::run(w, requests).e2e.max;
  };
  const auto turns = static_cast<double>(slowest("round_robin"));
  CHECK(static_cast<double>(slowest("total_requests")) < 0.9 * turns);
  CHECK(static_cast<double>(slowest("total_tokens")) < 0.9 * turns);
}
