// SGLang's scheduler in random worlds: nothing leaks, everybody ends once, and a stretch decides what single
// steps decide.
#include <array>

#include "catch.h"
#include "sim/simulation.h"
#include "world.h"

using namespace orrery;

TEST_CASE("random worlds: every request ends once, tokens add up, one gap a token") {
  std::uint64_t preemptions = 0, cached = 0, eos = 0, stretches = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    auto [w, requests] = world::random_sglang_world(seed);
    world::Records records;
    w.sink = &records;
    CAPTURE(seed);
    const RunResult r = world::run(w, requests);
    REQUIRE(records.all.size() == requests.size());
    std::uint64_t tokens = 0, gaps = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const RequestRecord& q = records.all[i];
      REQUIRE(q.request == i);
      const bool refused = requests[i].prompt_tokens + requests[i].max_output_tokens > w.config.max_model_len;
      if (refused) {
        REQUIRE(q.status == RequestStatus::rejected);
        continue;
      }
      REQUIRE(q.status == RequestStatus::completed);
      REQUIRE(q.output_tokens == requests[i].output_tokens);
      REQUIRE(q.ttft.ns() > 0);
      REQUIRE(q.e2e >= q.ttft);
      REQUIRE(q.ttft >= q.queue);
      REQUIRE(q.cached_tokens < q.prompt_tokens);
      tokens += static_cast<std::uint64_t>(q.output_tokens);
      gaps += static_cast<std::uint64_t>(q.output_tokens - 1);
      cached += q.cached_tokens > 0 ? 1 : 0;
      eos += requests[i].max_output_tokens > requests[i].output_tokens ? 1 : 0;
    }
    REQUIRE(r.output_tokens == tokens);
    REQUIRE(r.itl.count == gaps);
    preemptions += r.preemptions;
    stretches += r.stretches;
  }
  // The worlds do visit what they are meant to visit.
  INFO(preemptions << " retractions, " << cached << " hits, " << eos << " EOS, " << stretches
                   << " stretches");
  CHECK(preemptions > 50);
  CHECK(cached > 1000);
  CHECK(eos > 1000);
  CHECK(stretches > 1000);
}

TEST_CASE("per-request inter-token gaps add up to the request's decode time") {
  for (std::uint64_t seed = 1; seed <= 80; ++seed) {
    auto [w, requests] = world::random_sglang_world(seed);
    world::Records records;
    w.sink = &records;
    w.itl = true;
    world::run(w, requests);
    CAPTURE(seed);
    for (const RequestRecord& q : records.all) {
      if (q.output_tokens < 2) {
        REQUIRE(q.itl_max == -1);
        continue;
      }
      REQUIRE(q.itl_p50 <= q.itl_p99);
      REQUIRE(q.itl_p99 <= q.itl_max);
      // The first token waits its turn among the step's outputs, so that the sum may be a little longer.
      const std::int64_t span = (q.e2e - q.ttft).ns() + 10'000'000;
      REQUIRE(q.itl_max <= span);
      REQUIRE(q.itl_max * (q.output_tokens - 1) >= (q.e2e - q.ttft).ns());
    }
  }
}
