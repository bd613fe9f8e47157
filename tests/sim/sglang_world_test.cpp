// SGLang's scheduler in random worlds: nothing leaks, everybody ends once, and a stretch decides what single
// steps decide.
#include <array>

#include "catch.h"
#include "conservation.h"
#include "sim/simulation.h"
#include "world.h"

using namespace orrery;

TEST_CASE("random worlds: every request ends once, tokens add up, one gap a token") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    const auto [w, requests] = world::random_sglang_world(seed);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
  }
  CHECK(visited.preemptions > 50);
  CHECK(visited.cached > 1000);
  CHECK(visited.eos > 1000);
  CHECK(visited.stretches > 1000);
}

TEST_CASE("per-request inter-token gaps add up to the request's decode time") {
  for (std::uint64_t seed = 1; seed <= 80; ++seed) {
    const auto [w, requests] = world::random_sglang_world(seed);
    CAPTURE(seed);
    world::check_gaps(w, requests, 10'000'000);
  }
}
