// SGLang's scheduler in random worlds: nothing leaks, everybody ends once, and a stretch decides what single
// steps decide.
#include <array>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "sglang_features_world.h"
#include "sim/simulation.h"
#include "world.h"

using namespace orrery;

constexpr std::uint64_t fewer = sanitized ? 5 : 1;  // under a sanitizer: a fifth of the worlds

TEST_CASE("random worlds: every request ends once, tokens add up, one gap a token") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 400 / fewer; ++seed) {
    const auto [w, requests] = world::random_sglang_world(seed);
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
  }
  CHECK(visited.preemptions > 50 / (fewer * fewer));
  CHECK(visited.cached > 1000 / (fewer * fewer));
  CHECK(visited.eos > 1000 / (fewer * fewer));
  CHECK(visited.stretches > 1000 / (fewer * fewer));
}

TEST_CASE("random worlds with other features on: every request ends once, no slot is lost, in any order") {
  std::uint64_t loads = 0, accepted = 0, rejected_drafts = 0, preemptions = 0, cached = 0, turned_away = 0,
                stretches = 0;
  for (std::uint64_t seed = 1; seed <= 300 / fewer; ++seed) {
    auto [w, requests] = world::random_sglang_features(seed);
    CAPTURE(seed);
    world::Records records;
    w.sink = &records;
    w.itl = true;
    const bool limited = w.config.options.has("max_queued_requests");
    const RunResult run = world::run(w, requests);  // leaked slots and requests left over are errors
    REQUIRE(records.all.size() == requests.size());
    REQUIRE(run.failed == 0);
    std::uint64_t tokens = 0;
    for (const RequestRecord& q : records.all) {
      const TraceRequest& asked = requests[q.request];
      const bool too_long = asked.prompt_tokens + asked.max_output_tokens > w.config.max_model_len;
      if (too_long) REQUIRE(q.status == RequestStatus::rejected);
      if (q.status == RequestStatus::rejected) {
        REQUIRE((too_long || limited));
        turned_away += too_long ? 0 : 1;
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
    if (w.acceptance != nullptr && !limited) {
      // A verification is one event of one request; a first token is none.
      REQUIRE(run.itl.count >= run.speculation.decodes);
      REQUIRE(run.itl.count <= run.speculation.decodes + run.preemptions);
    }
    accepted += run.speculation.accepted;
    rejected_drafts += run.speculation.drafts - run.speculation.accepted;
    preemptions += run.preemptions;
    stretches += run.stretches;
    loads += run.offload.loads;
    if (seed % 4 != 0) continue;
    w.sink = nullptr;
    REQUIRE(world::run(w, requests, seed).digest == run.digest);
    w.config.stretches = false;
    REQUIRE(world::run(w, requests).digest == run.digest);
  }
  CHECK(accepted > 10000 / (fewer * fewer));
  CHECK(rejected_drafts > 10000 / (fewer * fewer));
  CHECK(preemptions > 100 / (fewer * fewer));
  CHECK(cached > 300 / (fewer * fewer));
  CHECK(turned_away > 100 / (fewer * fewer));
  CHECK(stretches > 1000 / (fewer * fewer));
  CHECK(loads > 50 / (fewer * fewer));
}

TEST_CASE("per-request inter-token gaps add up to the request's decode time") {
  for (std::uint64_t seed = 1; seed <= 80 / fewer; ++seed) {
    const auto [w, requests] = world::random_sglang_world(seed);
    CAPTURE(seed);
    world::check_gaps(w, requests, 10'000'000);
  }
}
