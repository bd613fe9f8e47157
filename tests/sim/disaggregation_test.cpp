// Prefill and decode apart: vLLM's rules for pulling, on hand-made transports whose times are known.
#include "apart_world.h"
#include "catch.h"

using namespace orrery;
using namespace apart;
using world::request;

TEST_CASE("the prefill leg alone is a request of one token at an instance of its own [pd]") {
  std::vector<TraceRequest> requests = burst(40, 0.01, 700, 30);
  world::Records apart, alone;
  Apart a;
  a.world.sink = &apart;
  run(a, requests);
  world::World w;
  w.sink = &alone;
  for (TraceRequest& r : requests) r.output_tokens = r.max_output_tokens = 1;
  world::run(w, requests);
  REQUIRE(apart.all.size() == 40);
  for (std::size_t i = 0; i < 40; ++i) {
    CHECK(apart.all[i].queue == alone.all[i].queue);
    CHECK(apart.all[i].handoff.queue + apart.all[i].handoff.prefill == alone.all[i].e2e);
  }
}

TEST_CASE(
    "one request on idle instances: the parts of its first token by hand, and its decode as elsewhere [pd]") {
  world::Records apart, alone;
  Apart a;
  a.world.sink = &apart;
  a.transfer = milliseconds(7);
  run(a, {request(0, 1.0, 1000, 50)});
  const RequestRecord& r = apart.all.at(0);
  CHECK(r.handoff.apart);
  CHECK(r.handoff.prefill_instance == InstanceId(0));
  CHECK(r.instance == InstanceId(1));
  CHECK(r.output_tokens == 50);
  CHECK(sum(r.handoff) == r.ttft);
  CHECK(r.handoff.transfer == milliseconds(7));
  CHECK(r.handoff.decode_queue == SimDuration(0));  // an engine with nothing to run knows at once
  const auto pricer = StepPricer::create(a.world.spec).value();
  CHECK(r.handoff.wait == pricer.input_delay() + pricer.core_wake());
  // The decode instance computes the prompt's last token again: a step like any decode at that context.
  const StepShape one{.prefill = {}, .decode_sequences = 1, .decode_context_tokens = 999};
  CHECK(r.handoff.first_step.ns() >= pricer.price(one).busy);
  CHECK(r.handoff.first_step.ns() < 2 * pricer.price(one).busy + milliseconds(5).ns());
  REQUIRE(a.pulls.size() == 1);
  CHECK(a.pulls[0].blocks == (1000 + 15) / 16);
  CHECK(a.pulls[0].from == InstanceId(0));
  CHECK(a.pulls[0].to == InstanceId(1));

  world::World w;
  w.sink = &alone;
  world::run(w, {request(0, 1.0, 1000, 50)});
  CHECK(r.e2e - r.ttft == alone.all.at(0).e2e - alone.all.at(0).ttft);
}

TEST_CASE("§8 a longer transfer delays the first token of a lone request by as much [pd]") {
  world::Records records[2];
  for (int i = 0; i < 2; ++i) {
    Apart a;
    a.world.sink = &records[i];
    a.transfer = milliseconds(i == 0 ? 0 : 40);
    run(a, {request(0, 0, 500, 20)});
  }
  CHECK(records[1].all[0].ttft - records[0].all[0].ttft == milliseconds(40));
  CHECK(records[1].all[0].e2e - records[0].all[0].e2e == milliseconds(40));
}

TEST_CASE("beside running decodes an engine notices with the output of a step launched after the end [pd]") {
  world::Records records;
  Apart a;
  a.world.sink = &records;
  a.transfer = milliseconds(3);
  run(a, {request(0, 0, 200, 400), request(1, 0.4, 200, 20)});
  const HandoffTimes& t = records.all[1].handoff;
  const auto step = static_cast<double>(records.all[0].tpot_ns());
  const auto waited = static_cast<double>(t.decode_queue.ns());
  // The one in flight at the end of the transfer, and the next one, launched after it, whose output says so;
  // with two steps in flight the core thread is busy one step ahead.
  CHECK(waited > 1.0 * step);
  CHECK(waited < 3.2 * step);
}

TEST_CASE("§8 prefill blocks are held until they have been fetched, and hold up the next prompt [pd]") {
  // 2 prompts of 40 blocks in a pool of 60 usable ones: the second waits until the first has been fetched.
  world::Records records;
  Apart a;
  a.world.sink = &records;
  a.world.config.max_model_len = 900;
  a.prefill_blocks = 61;
  a.transfer = milliseconds(500);
  run(a, {request(0, 0, 640, 5), request(1, 0.001, 640, 5)});
  const RequestRecord &first = records.all[0], &second = records.all[1];
  const SimTime fetched = first.arrival + first.handoff.queue + first.handoff.prefill + first.handoff.wait +
                          first.handoff.transfer;
  CHECK(second.arrival + second.handoff.queue == fetched);
}

TEST_CASE("§8 a full decode pool lets nobody begin a transfer: back-pressure by hand [pd]") {
  // 60 usable blocks, prompts of 40 that grow to 45: one at a time.
  world::Records records;
  Apart a;
  a.world.sink = &records;
  a.world.config.max_model_len = 900;
  a.decode_blocks = 61;
  a.transfer = milliseconds(1);
  run(a, burst(3, 0.0, 640, 80));
  for (std::size_t i = 1; i < 3; ++i) {
    const RequestRecord &before = records.all[i - 1], &r = records.all[i];
    const SimTime begun = r.arrival + r.handoff.queue + r.handoff.prefill + r.handoff.wait;
    const SimTime gone = before.arrival + before.e2e;
    CHECK(begun <= gone);  // the client hears of the end a little after the core has freed the blocks
    CHECK(gone - begun < milliseconds(2));
    CHECK(r.handoff.wait > milliseconds(50));
  }
}

TEST_CASE("a sequence preempted on the decode side computes its prompt again, there [pd]") {
  world::Records records;
  Apart a;
  a.world.sink = &records;
  a.world.config.max_model_len = 900;
  a.decode_blocks = 61;
  const RunResult r = run(a, burst(2, 0.0, 400, 200));  // 25 blocks each, growing to 38
  CHECK(r.completed == 2);
  CHECK(r.preemptions > 0);
  CHECK(a.pulls.size() == 2);  // nothing is fetched twice
}

TEST_CASE("§8 what the decode side has cached is not fetched [pd]") {
  std::vector<TraceRequest> requests = {request(0, 0, 1024, 5), request(1, 2.0, 1024, 5)};
  for (TraceRequest& r : requests) {
    r.hash_block_size = 512;
    r.hash_ids = {7, r.index == 0 ? 8u : 9u};
  }
  Apart a;
  run(a, requests);
  REQUIRE(a.pulls.size() == 2);
  CHECK(a.pulls[0].blocks == 64);
  CHECK(a.pulls[1].blocks == 32);
}

TEST_CASE("clients that leave: every request ends once, and all blocks come back [pd]") {
  std::vector<TraceRequest> requests = burst(60, 0.004, 600, 40);
  for (TraceRequest& r : requests) {
    // From inside the prefill queue over the transfer to the decode.
    if (r.index % 2 == 0) r.cancel_after = milliseconds(static_cast<std::int64_t>(5 + 4 * r.index));
  }
  world::Records records;
  Apart a;
  a.world.sink = &records;
  a.world.config.max_model_len = 900;
  a.prefill_blocks = 200;
  a.decode_blocks = 150;
  a.transfer = milliseconds(25);
  const RunResult r = run(a, requests);  // leaks and unfinished handoffs are errors of the run
  CHECK(records.all.size() == 60);
  CHECK(r.completed + r.cancelled == 60);
  CHECK(r.cancelled > 5);
  CHECK(r.completed >= 30);
}

TEST_CASE("random worlds apart: conservation, and single steps are stretches [pd]") {
  std::uint64_t stretches = 0, preempted = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    w.config.long_prefill_token_threshold = 0;
    RandomStream random(seed, RandomPurpose::property_test, 11);
    Apart a;
    a.world = w;
    a.prefills = 1 + random.below(2);
    a.decodes = 1 + random.below(2);
    a.prefill_blocks = a.decode_blocks = w.config.num_gpu_blocks;
    a.transfer = SimDuration(static_cast<std::int64_t>(random.below(60'000'000)));
    for (TraceRequest& r : requests)
      if (random.below(8) == 0)
        r.cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
    world::Records by_stretch, by_step;
    a.world.sink = &by_stretch;
    const RunResult one = run(a, requests);
    const std::size_t pulls = a.pulls.size();
    a.world.sink = &by_step;
    a.world.config.stretches = false;
    const RunResult other = run(a, requests);
    REQUIRE(one.digest == other.digest);
    REQUIRE(one.steps == other.steps);
    REQUIRE(pulls == a.pulls.size());
    REQUIRE(by_stretch.all.size() == requests.size());
    for (std::size_t i = 0; i < requests.size(); ++i) {
      REQUIRE(by_stretch.all[i].ttft == by_step.all[i].ttft);
      REQUIRE(by_stretch.all[i].e2e == by_step.all[i].e2e);
      REQUIRE(by_stretch.all[i].status == by_step.all[i].status);
      if (by_stretch.all[i].status == RequestStatus::completed)
        REQUIRE(sum(by_stretch.all[i].handoff) == by_stretch.all[i].ttft);
    }
    stretches += one.stretches;
    preempted += one.preemptions;
  }
  CHECK(stretches > 100);
  CHECK(preempted > 10);
}
