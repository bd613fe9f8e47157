// vLLM's scheduling_policy: priority (../shared/reference/vllm_0_24.md §1.2; request_queue.py).
#include "catch.h"
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

TEST_CASE("the queue is served by priority, then by arrival") {
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
TEST_CASE("the least urgent running request is preempted, whatever its place") {
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

}  // namespace
}  // namespace orrery
