// vLLM's scheduling_policy: priority (../shared/reference/vllm_0_24.md §1.2; request_queue.py).
#include "catch.h"
#include "conservation.h"
#include "sglang_features_world.h"
#include "world.h"

namespace orrery {
namespace {

std::vector<RequestRecord> records_of(bool by_priority, const std::vector<TraceRequest>& requests,
                                      std::int64_t blocks, std::int64_t sequences) {
  world::World w;
  w.config.by_priority = by_priority;
  w.config.num_gpu_blocks = blocks;
  w.config.max_num_seqs = sequences;
  world::Records records;
  w.sink = &records;
  world::run(w, requests);
  return records.all;
}

TEST_CASE("§1.2.3 the queue is served by priority, then by arrival") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 6; ++i)
    requests.push_back(world::request(i, 0.001 * static_cast<double>(i), 200, 50));
  requests[3].priority = requests[5].priority = -1;
  requests[1].priority = 7;
  const auto by_priority = records_of(true, requests, 50000, 1), fcfs = records_of(false, requests, 50000, 1);
  const auto begins = [](const RequestRecord& r) { return r.arrival + r.queue; };
  const std::array<std::size_t, 6> order{0, 3, 5, 2, 4, 1};
  for (std::size_t i = 1; i < 6; ++i) {
    CHECK(begins(by_priority[order[i]]) > begins(by_priority[order[i - 1]]));
    CHECK(begins(fcfs[i]) > begins(fcfs[i - 1]));
  }
}

// Three sequences outgrow the pool. FCFS takes the last one's blocks; PRIORITY those of the least urgent,
// which here is the first one, though it was served earlier in the same step.
TEST_CASE("§1.2.2 the least urgent running request is preempted, whatever its place") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 3; ++i)
    requests.push_back(world::request(i, 0.001 * static_cast<double>(i), 320, 300));
  requests[0].priority = 5;
  const auto by_priority = records_of(true, requests, 1 + 3 * 30, 8),
             fcfs = records_of(false, requests, 1 + 3 * 30, 8);
  CHECK(by_priority[0].preemptions > 0);
  CHECK(by_priority[1].preemptions + by_priority[2].preemptions == 0);
  CHECK(fcfs[0].preemptions == 0);
  CHECK(fcfs[2].preemptions > 0);
}

TEST_CASE("equal priorities preempt the latest arrival, as FCFS does") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    auto [w, requests] = world::random_world(seed);
    world::Records records;
    w.sink = &records;
    w.config.by_priority = true;
    const RunResult r = world::run(w, requests);
    CHECK(r.completed + r.rejected == requests.size());
  }
}

// The one in the middle is the least urgent. When it is the one that needs a block, it goes itself, which
// ends the engine's loop ("No more request to preempt. Cannot schedule this request."): who stands behind it
// sits the step out, and waits for two.
TEST_CASE("§1.2.2 who stands behind a sequence that preempts itself sits the step out") {
  world::World w;
  w.config.by_priority = true;
  w.config.num_gpu_blocks = 1 + 22 + 22 + 19;  // 352, 352 and 304 tokens
  w.itl = true;
  world::Records records;
  w.sink = &records;
  // The middle one crosses into its 23rd block first, when all are taken.
  std::vector<TraceRequest> requests{world::request(0, 0, 321, 200), world::request(1, 0, 330, 200),
                                     world::request(2, 0.08, 289, 200)};
  requests[1].priority = 5;
  world::run(w, requests);
  REQUIRE(records.all[1].preemptions > 0);
  REQUIRE(records.all[0].preemptions + records.all[2].preemptions == 0);
  // Behind it: one gap of two steps more than the one before it has.
  CHECK(records.all[2].itl_max > records.all[0].itl_max);
  CHECK(static_cast<double>(records.all[2].itl_max) > 1.8 * static_cast<double>(records.all[2].itl_p50));
}

// Three sequences with drafts outgrow the pool; the row of the least urgent, served first, is taken back.
TEST_CASE("§1.2.2 with drafts too the least urgent goes, and what it was given in the step goes back") {
  for (const std::int32_t depth : {1, 2}) {
    const SampledAcceptance oracle(3, {0.7, 0.5}, 1);
    world::World w;
    w.acceptance = &oracle;
    w.config.speculation = {.tokens = 2, .lookahead = 2, .drops_last_hit = true};
    w.spec.engine.settings.draft_tokens = 2;
    w.spec.engine.steps_in_flight = depth;
    w.spec.speculation.method = SpeculationMethod::eagle;
    w.spec.speculation.tokens = 2;
    w.spec.speculation.draft.intermediate = 12288;
    w.config.by_priority = true;
    w.config.num_gpu_blocks = 1 + 3 * 30;
    std::vector<TraceRequest> requests;
    for (std::uint64_t i = 0; i < 3; ++i)
      requests.push_back(world::request(i, 0.001 * static_cast<double>(i), 320, 300));
    requests[0].priority = 5;
    world::Records records;
    w.sink = &records;
    const RunResult r = world::run(w, requests);
    CHECK(r.completed == 3);
    CHECK(r.output_tokens == 900);
    CHECK(records.all[0].preemptions > 0);
    CHECK(records.all[1].preemptions + records.all[2].preemptions == 0);
  }
}

TEST_CASE("random worlds by priority, with and without drafts: nothing leaks, a gap a token, in any order") {
  std::uint64_t preemptions = 0;
  for (std::uint64_t seed = 0; seed < 160; ++seed) {
    auto [w, requests] = world::random_world(seed / 2);
    RandomStream r(seed / 2, RandomPurpose::property_test, 43);
    if (seed % 2 == 1) world::speculate(w, r);
    w.config.by_priority = true;
    if (seed % 3 == 0) w.config.num_gpu_blocks = 2 + 4096 / w.config.block_size;
    for (TraceRequest& q : requests) q.priority = static_cast<std::int32_t>(r.below(5)) - 2;
    world::Visited visited;
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens >= limit;
    };
    world::check_conservation(w, requests, refused, visited);
    const RunResult a = world::run(w, requests);
    CHECK(world::run(w, requests, seed + 5).digest == a.digest);
    w.config.stretches = false;
    CHECK(world::run(w, requests).digest == a.digest);
    preemptions += a.preemptions;
  }
  CHECK(preemptions > 200);
}

}  // namespace
}  // namespace orrery
