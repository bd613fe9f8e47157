// The API server as event loops: what a client beside the engine does not see.
#include "sim/front_end.h"

#include "catch.h"
#include "world.h"

namespace orrery {
namespace {

FrontEndConfig plain() {
  return {.processes = 1,
          .request = SimDuration(500'000),
          .message = SimDuration(50'000),
          .tokenize_ps = 3'000'000,
          .detokenize_ps = 1'000'000,
          .event_ps = 64'000'000};
}

// Every sequence with one token, told at once.
FrontEnd::Outputs each(std::int64_t sequences) {
  return {.sequences = sequences, .tokens = sequences, .events = sequences};
}

TEST_CASE("an idle loop takes what its work takes") {
  FrontEnd f(plain());
  CHECK(f.accept(0, 1000, SimTime(7)) == SimTime(7 + 500'000 + 3'000'000));
  CHECK(f.deliver(SimTime(10'000'000), each(10)) == SimTime(10'000'000 + 50'000 + 10 * 65'000));
  CHECK(f.deliver(SimTime(20'000'000), each(0)) == SimTime(20'000'000));
}

TEST_CASE("the loop is a serial server: requests queue for it, and hold up the outputs behind them") {
  FrontEnd f(plain());
  const SimTime first = f.accept(0, 0, SimTime(0)), second = f.accept(1, 0, SimTime(1));
  CHECK(second - first == SimDuration(500'000));
  CHECK(f.deliver(SimTime(2), each(1)) == second + SimDuration(50'000 + 65'000));
}

TEST_CASE("a tokeniser beside the loop holds up requests, not outputs") {
  FrontEndConfig config = plain();
  config.tokenizer_beside_loop = true;
  FrontEnd f(config);
  CHECK(f.accept(0, 1000, SimTime(0)) == SimTime(500'000 + 3'000'000));
  CHECK(f.accept(1, 1000, SimTime(0)) == SimTime(500'000 + 6'000'000));
  CHECK(f.deliver(SimTime(1), each(1)) == SimTime(1'000'000 + 115'000));
}

TEST_CASE("a detokeniser of its own works while the loop sends") {
  FrontEndConfig config = plain();
  config.detokenizer_apart = true;
  FrontEnd f(config);
  CHECK(f.deliver(SimTime(0), each(10)) == SimTime(50'000 + 10'000 + 50'000 + 640'000));
  config.detokenizers = 4;  // each with three of ten at most
  FrontEnd g(config);
  CHECK(g.deliver(SimTime(0), each(10)) == SimTime(50'000 + 3'000 + 50'000 + 640'000));
}

TEST_CASE("with drafts a sequence has several tokens in one event") {
  FrontEndConfig config = plain();
  config.output_ps = 29'000'000;
  FrontEnd f(config);
  CHECK(f.deliver(SimTime(0), {.sequences = 10, .tokens = 25, .events = 10}) ==
        SimTime(50'000 + 10 * 29'000 + 25 * 1'000 + 10 * 64'000));
}

TEST_CASE("processes share a message") {
  FrontEndConfig config = plain();
  config.processes = 4;
  FrontEnd f(config);
  CHECK(f.deliver(SimTime(0), each(10)) == SimTime(50'000 + 3 * 65'000));
}

// 100 sequences in steps faster than a loop can send: the client sees the loop's pace, 1/(batch · 65 µs).
TEST_CASE("a loop with more work than time sets the pace of tokens") {
  world::World w;
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 100; ++i) requests.push_back(world::request(i, 0, 16, 300));
  const RunResult beside = world::run(w, requests);
  w.front_end = plain();
  w.front_end->event_ps = 500'000'000;
  const RunResult behind = world::run(w, requests);
  const double pace = 50'000 + 100 * 501'000;
  REQUIRE(static_cast<double>(beside.itl.p50) < pace / 2);
  CHECK(static_cast<double>(behind.itl.p50) == Approx(pace).epsilon(0.001));
  // The engine itself is not slowed down: it made the same steps.
  CHECK(behind.steps <= beside.steps + 300);
}

TEST_CASE("an unsaturated front end adds its work to latencies and leaves the gaps alone") {
  world::World w;
  const std::vector<TraceRequest> one{world::request(0, 0, 1000, 100)};
  world::Records beside, behind;
  w.sink = &beside;
  const RunResult without = world::run(w, one);
  w.front_end = plain();
  w.sink = &behind;
  const RunResult with = world::run(w, one);
  const SimDuration in(500'000 + 3'000'000), out(50'000 + 65'000);
  CHECK(behind.all[0].ttft == beside.all[0].ttft + in + out);
  CHECK(behind.all[0].e2e == beside.all[0].e2e + in + out);
  CHECK(with.itl.mean == Approx(without.itl.mean).epsilon(1e-9));
}

}  // namespace
}  // namespace orrery
