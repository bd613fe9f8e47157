// How vLLM's front end chooses a data-parallel rank, by hand. Rules cite the wheel of 0.24.0.
#include "sim/vllm_balancer.h"

#include "catch.h"

using namespace orrery;

namespace {

SimTime ms(std::int64_t t) { return SimTime(t * 1'000'000); }

Request numbered(std::uint64_t id) {
  Request r;
  r.id = RequestId(id);
  r.prompt_tokens = r.max_output_tokens = 10;
  return r;
}

SchedulerView view(std::int32_t waiting, std::int32_t running) {
  SchedulerView v;
  v.waiting = waiting;
  v.running = running;
  return v;
}

}  // namespace

// DPLBAsyncMPClient.get_core_engine_for_request: score = waiting * 4 + running, `<`, from eng_start_index on,
// then waiting += client_count.
TEST_CASE("the front end takes the least of 4 waiting + running, and counts what it sent") {
  VllmBalancer one(3, 1);
  for (const std::size_t rank : {0, 1, 2, 0}) CHECK(one.choose(numbered(0)) == rank);
  one.at(ms(1000));
  one.report(0, view(0, 5));
  one.report(1, view(1, 0));
  one.report(2, view(0, 4));
  one.at(ms(1049));  // published 50 ms after the last message, so it still goes by what it sent: 8, 4, 4
  CHECK(one.choose(numbered(1)) == 1);
  one.at(ms(1050));  // 5, 4, 4
  CHECK(one.choose(numbered(2)) == 1);
  CHECK(one.choose(numbered(3)) == 2);  // 5, 8, 4
  CHECK(one.choose(numbered(4)) == 0);  // 5, 8, 8
  // Two clients begin at their own ranks, add 2 for each of theirs and do not know of one another's.
  VllmBalancer two(4, 2);
  CHECK(two.choose(numbered(0)) == 0);
  CHECK(two.choose(numbered(1)) == 2);
  CHECK(two.choose(numbered(3)) == 3);
  CHECK(two.choose(numbered(2)) == 1);
}

// DPCoordinatorProc.process_input_socket: at most every 100 ms while counts change, as they were before the
// newest step; without messages after 50 ms at the earliest; every 5 s otherwise.
TEST_CASE("the coordinator publishes late") {
  StatsCoordinator c(1);
  c.advance(ms(4999));
  CHECK(c.publications() == 0);
  c.advance(ms(5000));
  CHECK(c.publications() == 1);
  std::int64_t at = 6000;
  for (std::int32_t n = 1; n <= 30; ++n, at += 10) c.report(ms(at), 0, {.waiting = n, .running = 0});
  // At 6010, the time of the second message, with the first one's count; then every 100 ms: at 6110 and 6210
  // with the counts before the step of 6100, 6200.
  CHECK(c.publications() == 4);
  CHECK(c.published()[0].waiting == 20);
  c.advance(ms(6310));
  CHECK(c.published()[0].waiting == 29);  // before the last step; then it is quiet, and 50 and 100 ms on:
  c.advance(ms(6409));
  CHECK(c.published()[0].waiting == 29);
  c.advance(ms(6410));
  CHECK(c.published()[0].waiting == 30);
}
