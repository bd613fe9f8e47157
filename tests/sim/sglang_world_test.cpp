// SGLang's scheduler in random worlds: nothing leaks, everybody ends once, and a stretch decides what single
// steps decide.
#include <array>

#include "catch.h"
#include "conservation.h"
#include "sglang_features_world.h"
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

TEST_CASE(
    "random worlds with speculation: every request ends once, in any order of events, no slot is lost") {
  std::uint64_t accepted = 0, rejected = 0, preemptions = 0, cached = 0, worlds = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    auto [w, requests] = world::random_sglang_features(seed);
    if (w.acceptance == nullptr) continue;
    ++worlds;
    CAPTURE(seed);
    world::Records records;
    w.sink = &records;
    w.itl = true;
    const RunResult run = world::run(w, requests);  // leaked slots and requests left over are errors
    REQUIRE(records.all.size() == requests.size());
    std::uint64_t tokens = 0;
    for (const RequestRecord& q : records.all) {
      const TraceRequest& asked = requests[q.request];
      if (asked.prompt_tokens + asked.max_output_tokens > w.config.max_model_len) {
        REQUIRE(q.status == RequestStatus::rejected);
        continue;
      }
      REQUIRE(q.status == RequestStatus::completed);
      REQUIRE(q.output_tokens == asked.output_tokens);
      REQUIRE(q.accepted_drafts <= q.drafts);
      if (q.itl_max >= 0) REQUIRE(q.itl_max <= (q.e2e - q.ttft).ns() + 100'000'000);
      tokens += static_cast<std::uint64_t>(q.output_tokens);
      cached += q.cached_tokens > 0 ? 1 : 0;
    }
    REQUIRE(run.output_tokens == tokens);
    // A verification is one event of one request; a first token is none.
    REQUIRE(run.itl.count >= run.speculation.decodes);
    REQUIRE(run.itl.count <= run.speculation.decodes + run.preemptions);
    accepted += run.speculation.accepted;
    rejected += run.speculation.drafts - run.speculation.accepted;
    preemptions += run.preemptions;
    if (seed % 8 == 0) {
      w.sink = nullptr;
      REQUIRE(world::run(w, requests, seed).digest == run.digest);
    }
  }
  CHECK(worlds > 80);
  CHECK(accepted > 10000);
  CHECK(rejected > 10000);
  CHECK(preemptions > 20);
  CHECK(cached > 300);
}

TEST_CASE("per-request inter-token gaps add up to the request's decode time") {
  for (std::uint64_t seed = 1; seed <= 80; ++seed) {
    const auto [w, requests] = world::random_sglang_world(seed);
    CAPTURE(seed);
    world::check_gaps(w, requests, 10'000'000);
  }
}
