// KV that leaves while it is computed: when layers end, what of a transfer is not hidden, and what becomes of
// transfers that fail.
#include "apart_world.h"
#include "catch.h"
#include "sim/costed/fabric_transport.h"
#include "sim/fabric/presets.h"
#include "sim/fabric/routes.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

constexpr std::int32_t layers = 32;

Apart layerwise(SimDuration transfer) {
  Apart a;
  a.transfer = transfer;
  a.rules.at_once = true;
  a.rules.layers = layers;
  a.rules.retries = 0;
  return a;
}

RequestRecord lone(Apart& a, std::int32_t prompt, Steps* steps = nullptr) {
  world::Records records;
  a.world.sink = &records;
  a.world.observer = steps;
  run(a, {request(0, 1.0, prompt, 20)});
  return records.all.at(0);
}

}  // namespace

TEST_CASE("a fabric without end: nothing is exposed, layer by layer or whole [pd]") {
  Apart by_layer = layerwise(SimDuration(0)), whole;
  const RequestRecord a = lone(by_layer, 3000), b = lone(whole, 3000);
  for (const RequestRecord& r : {a, b}) {
    CHECK(r.handoff.transfer == SimDuration(0));
    CHECK(sum(r.handoff) == r.ttft);
  }
  CHECK(a.handoff.wait == SimDuration(0));  // the decode side had its blocks long ago
  CHECK(a.handoff.queue == b.handoff.queue);
  // Whole, the answer goes to the proxy and the request to the other engine before anything begins.
  CHECK(b.ttft - a.ttft == b.handoff.wait + (b.handoff.prefill - a.handoff.prefill));
  CHECK(a.e2e - a.ttft == b.e2e - b.ttft);
}

TEST_CASE("layers leave as they end, in the step of the last chunk [pd]") {
  Apart a = layerwise(milliseconds(1));
  Steps steps;
  lone(a, 10000, &steps);  // two chunks: 8192 and 1808 tokens
  const auto chunk = std::find_if(steps.all.begin(), steps.all.end(),
                                  [](const StepRecord& s) { return s.prefill_tokens == 1808; });
  REQUIRE(chunk != steps.all.end());
  REQUIRE(a.sends.size() == layers);
  const std::int64_t length = (chunk->device_end - chunk->device_begin).ns();
  for (std::int64_t i = 0; i < layers; ++i) {
    const FixedTransport::Sent& s = a.sends[static_cast<std::size_t>(i)];
    CHECK(s.part.first == i);
    CHECK(s.part.last == i + 1);
    CHECK(s.part.of == layers);
    CHECK(s.part.blocks == 625);
    // Rounded up: a layer is not there before it has ended.
    CHECK(s.at == chunk->device_begin + SimDuration((length * (i + 1) + layers - 1) / layers));
  }
}

TEST_CASE("what a slow transfer exposes, by hand [pd]") {
  for (const std::int64_t ms : {1, 40, 2000}) {
    CAPTURE(ms);
    Apart a = layerwise(milliseconds(ms));
    Steps steps;
    const RequestRecord r = lone(a, 3000, &steps);
    const std::int64_t compute = (steps.all[0].device_end - steps.all[0].device_begin).ns();
    const std::int64_t all = milliseconds(ms).ns(), layer = all / layers;
    // Faster than compute: the last layer. Slower: all of it, less what ran beside all layers but the first.
    const std::int64_t exposed =
        layer <= compute / layers ? layer : all - compute + (compute + layers - 1) / layers;
    CHECK(std::abs(r.handoff.transfer.ns() - exposed) <= layers);
    CHECK(r.handoff.wait == SimDuration(0));
    CHECK(a.sends.size() == layers);
  }
}

TEST_CASE("without blocks on the decode side layers wait, and go as one [pd]") {
  Apart a = layerwise(milliseconds(10));
  a.world.config.max_model_len = 900;
  a.decode_blocks = 61;  // one prompt of 40 at a time
  world::Records records;
  a.world.sink = &records;
  run(a, burst(2, 0.0, 640, 80));
  const HandoffTimes& t = records.all[1].handoff;
  CHECK(t.wait > milliseconds(50));
  CHECK(t.transfer == milliseconds(10));
  CHECK(std::count_if(a.sends.begin(), a.sends.end(), [](const auto& s) {
          return s.part.request == RequestId(1) && s.part.first == 0 && s.part.last == layers;
        }) == 1);
}

TEST_CASE("random worlds by layer: conservation, and single steps are stretches [pd]") {
  std::uint64_t stretches = 0, preempted = 0, cancelled = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    w.config.long_prefill_token_threshold = 0;
    RandomStream random(seed, RandomPurpose::property_test, 12);
    Apart a = layerwise(SimDuration(static_cast<std::int64_t>(random.below(60'000'000))));
    a.world = w;
    a.prefills = 1 + random.below(2);
    a.decodes = 1 + random.below(2);
    a.prefill_blocks = a.decode_blocks = w.config.num_gpu_blocks;
    for (TraceRequest& r : requests) {
      if (random.below(8) == 0)
        r.cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
      if (random.below(6) == 0)
        a.failures[RequestId(r.index)] = 1 + static_cast<std::int32_t>(random.below(2));
    }
    a.rules.retries = static_cast<std::int32_t>(random.below(3));
    const Checked checked = check(a, requests);
    stretches += checked.run.stretches;
    preempted += checked.run.preemptions;
    cancelled += checked.run.cancelled;
  }
  CHECK(stretches > 100);
  CHECK(preempted > 10);
  CHECK(cancelled > 50);
}

// --------------------------------------------------------------------------------------------- the fabric

namespace {

constexpr std::int64_t block_bytes = 4'500'000;  // 10 µs at 450 GB/s

std::vector<FabricTransport::Seat> two_seats(const fabric::Topology& t) {
  return {{.gpus = {t.gpus()[0]}, .bytes_per_block = block_bytes},
          {.gpus = {t.gpus()[1]}, .bytes_per_block = block_bytes}};
}

SimTime finish(FabricTransport& transport) {
  std::vector<KvPullDone> done;
  while (!transport.next_event().is_never()) transport.collect(transport.next_event(), done);
  REQUIRE(done.size() == 1);
  CHECK(!done[0].failed);
  return done[0].at;
}

// Parts of a prompt whose computation takes `compute`, as their layers end.
SimTime by_layer(const fabric::Topology& t, std::int64_t blocks, SimDuration compute, std::int64_t parts) {
  FabricTransport transport(t, two_seats(t), {.kv_heads = 8}, SimDuration(0));
  std::vector<KvPullDone> done;
  for (std::int64_t i = 0; i < parts; ++i) {
    const SimTime at = SimTime(0) + SimDuration(compute.ns() * (i + 1) / parts);
    while (transport.next_event() <= at) transport.collect(transport.next_event(), done);
    transport.send({RequestId(1), InstanceId(0), InstanceId(1), blocks, i, i + 1, parts}, at);
  }
  return finish(transport);
}

}  // namespace

TEST_CASE("on the fabric: hidden behind compute but for the last layer, or bound by the link [pd]") {
  const fabric::Topology t = fabric::build_preset({.preset = "hopper-8"});
  const SimDuration way = SimDuration(600);
  // 64 blocks · 10 µs = 640 µs of link time in 32 layers of 20 µs; a layer computes for 100 µs.
  CHECK(by_layer(t, 64, microseconds(3200), 32) == SimTime(0) + microseconds(3220) + way);
  // A layer computes for 10 µs: the link is busy from the first one on; each follow-up waits for the way.
  const SimTime bound = by_layer(t, 64, microseconds(320), 32);
  CHECK(bound >= SimTime(0) + microseconds(10 + 640) + way);
  CHECK(bound <= SimTime(0) + microseconds(10 + 640) + SimDuration(way.ns() * 8));
}

TEST_CASE("layer by layer is never later than whole on a fabric that nothing else uses [pd]") {
  const fabric::Topology t = fabric::build_preset({.preset = "hopper-8"});
  RandomStream random(5, RandomPurpose::property_test, 13);
  for (int i = 0; i < 200; ++i) {
    const auto blocks = static_cast<std::int64_t>(1 + random.below(4000));
    const auto compute = microseconds(static_cast<std::int64_t>(2000 + random.below(400'000)));
    FabricTransport whole(t, two_seats(t), {.kv_heads = 8}, SimDuration(0));
    whole.begin({RequestId(1), InstanceId(0), InstanceId(1), blocks}, SimTime(0) + compute);
    CAPTURE(blocks, compute.ns());
    REQUIRE(by_layer(t, blocks, compute, 61) <= finish(whole));
  }
}

TEST_CASE("parts carry what the whole carries, to the byte [pd]") {
  const fabric::Topology t = fabric::build_preset({.preset = "hopper-8"});
  for (const std::int64_t parts : {1, 7, 61}) {
    FabricTransport transport(t, two_seats(t), {.kv_heads = 8}, SimDuration(0));
    for (std::int64_t i = 0; i < parts; ++i)
      transport.send({RequestId(1), InstanceId(0), InstanceId(1), 37, i, i + 1, parts}, SimTime(0));
    finish(transport);
    KvTransferResult result;
    transport.report(milliseconds(1), result);
    CHECK(result.pulls == 1);
    CHECK(result.bytes == 37 * block_bytes);
  }
}

TEST_CASE("a cut cable or a dead instance fails what it carried, and nothing else [pd]") {
  const fabric::Topology t = fabric::build_preset({.preset = "hopper-8"});
  for (const bool by_link : {true, false}) {
    std::vector<FabricTransport::Seat> seats = two_seats(t);
    seats.push_back({.gpus = {t.gpus()[2]}, .bytes_per_block = block_bytes});
    FabricTransport transport(t, seats, {.kv_heads = 8}, SimDuration(0));
    transport.begin({RequestId(1), InstanceId(0), InstanceId(1), 100}, SimTime(0));
    transport.begin({RequestId(2), InstanceId(2), InstanceId(1), 100}, SimTime(0));
    const SimTime at = SimTime(0) + microseconds(500);
    fabric::Routes routes(t);
    while (by_link && routes.reachable(t.gpus()[0], t.gpus()[1])) {  // every way out, PCIe too
      const fabric::LinkId first = routes.find(t.gpus()[0], t.gpus()[1], 0).front();
      transport.fail_link(first, at);
      routes.fail(first);
    }
    if (!by_link) transport.fail_instance(InstanceId(0), at);
    std::vector<KvPullDone> done;
    while (!transport.next_event().is_never()) transport.collect(transport.next_event(), done);
    REQUIRE(done.size() == 2);
    CHECK(done[0].request == RequestId(1));
    CHECK(done[0].failed);
    CHECK(done[0].at == at);
    CHECK(!done[1].failed);
    // Half the link for 500 µs, then all of it: 250 of 1000 µs are done, 750 are left.
    CHECK(done[1].at == SimTime(0) + microseconds(1250) + SimDuration(600));
    if (!by_link) {  // nobody answers until it is back
      transport.begin({RequestId(4), InstanceId(0), InstanceId(1), 1}, done[1].at);
      transport.collect(done[1].at, done);
      REQUIRE(done.size() == 3);
      CHECK(done[2].failed);
      transport.restore_instance(InstanceId(0));
    }
    transport.begin({RequestId(5), InstanceId(0), InstanceId(1), 0}, done[1].at);  // word takes no bytes
    transport.send({RequestId(3), InstanceId(2), InstanceId(1), 1, 0, 1, 2}, done[1].at);  // goes on
    CHECK(!transport.next_event().is_never());
  }
}

TEST_CASE("what is forgotten is not reported, neither under way nor on its last microseconds [pd]") {
  const fabric::Topology t = fabric::build_preset({.preset = "hopper-8"});
  for (const std::int64_t at : {5, 15}) {  // a block takes 10 µs, the floor 10 more
    FabricTransport transport(t, two_seats(t), {.kv_heads = 8}, microseconds(10));
    transport.begin({RequestId(1), InstanceId(0), InstanceId(1), 1}, SimTime(0));
    std::vector<KvPullDone> done;
    transport.collect(SimTime(0) + microseconds(at), done);
    transport.forget(RequestId(1), SimTime(0) + microseconds(at));
    while (!transport.next_event().is_never()) transport.collect(transport.next_event(), done);
    CHECK(done.empty());
  }
}

// ------------------------------------------------------------------------------------------------ failure

namespace {

Apart failing(std::int32_t failures, std::int32_t retries, bool recompute) {
  Apart a;
  a.transfer = milliseconds(20);
  a.rules.retries = retries;
  a.rules.recompute_failed = recompute;
  a.rules.lease = duration_from_seconds(30);
  a.failures[RequestId(0)] = failures;
  return a;
}

}  // namespace

TEST_CASE("kv_load_failure_policy fail: an error, or from the beginning while there are retries [pd]") {
  for (const std::int32_t failures : {0, 1, 2}) {
    CAPTURE(failures);
    Apart a = failing(failures, 1, false);
    const RequestRecord r = lone(a, 800);
    CHECK(r.status == (failures < 2 ? RequestStatus::completed : RequestStatus::failed));
    CHECK(a.pulls.size() == static_cast<std::size_t>(std::min(failures, 1) + 1));
    if (failures == 1) {
      Apart good = failing(0, 1, false);
      const RequestRecord once = lone(good, 800);
      // Half a transfer was lost, and everything before it.
      CHECK(r.ttft > once.ttft + milliseconds(10) + once.handoff.prefill - milliseconds(1));
      CHECK(r.output_tokens == 20);
    }
  }
}

TEST_CASE("kv_load_failure_policy recompute: the decode side computes the prompt itself [pd]") {
  Apart a = failing(1, 1, true), good = failing(0, 1, true);
  Steps steps;
  const RequestRecord r = lone(a, 800, &steps), once = lone(good, 800);
  CHECK(r.status == RequestStatus::completed);
  CHECK(a.pulls.size() == 1);
  CHECK(r.handoff.transfer == milliseconds(10));  // until it failed
  CHECK(r.handoff.first_step > once.handoff.first_step);
  CHECK(std::count_if(steps.all.begin(), steps.all.end(),
                      [](const StepRecord& s) { return s.prefill_tokens == 800; }) == 2);  // on both sides
}

TEST_CASE("blocks of a failed transfer stay held for the lease [pd]") {
  // A pool of 60 usable blocks, prompts of 40: the second is prefilled when the first one's blocks are back.
  Apart a = failing(1, 0, false);
  a.world.config.max_model_len = 900;
  a.prefill_blocks = 61;
  world::Records records;
  a.world.sink = &records;
  run(a, {request(0, 0, 640, 5), request(1, 0.1, 640, 5)});
  CHECK(records.all[0].status == RequestStatus::failed);
  const RequestRecord& second = records.all[1];
  CHECK(second.status == RequestStatus::completed);
  CHECK(second.handoff.queue > duration_from_seconds(29.8));
  CHECK(second.handoff.queue < duration_from_seconds(30.1));
}

TEST_CASE("random worlds whose transfers fail: conservation under both policies [pd]") {
  std::uint64_t failed = 0, retried = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    CAPTURE(seed);
    auto [w, requests] = world::random_world(seed);
    w.config.long_prefill_token_threshold = 0;
    RandomStream random(seed, RandomPurpose::property_test, 14);
    Apart a = failing(0, static_cast<std::int32_t>(random.below(3)), random.below(2) == 0);
    a.world = w;
    a.prefill_blocks = a.decode_blocks = w.config.num_gpu_blocks;
    for (TraceRequest& r : requests) {
      if (random.below(3) == 0)
        a.failures[RequestId(r.index)] = 1 + static_cast<std::int32_t>(random.below(2));
      if (random.below(8) == 0)
        r.cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
    }
    const Checked checked = check(a, requests);
    failed += checked.run.failed;
    retried += checked.run.transfers.retried;
  }
  CHECK(failed > 20);
  CHECK(retried > 50);
}

// -------------------------------------------------------------------------------------- prompts not split

TEST_CASE("short prompts stay where they decode, or go to a mixed pool [pd]") {
  for (const std::size_t mixed : {0, 1}) {
    Apart a = layerwise(milliseconds(5));
    a.mixed = mixed;
    a.rules.local_below = 500;
    world::Records records, alone;
    a.world.sink = &records;
    run(a, {request(0, 0, 499, 10), request(1, 1, 500, 10)});
    CHECK(!records.all[0].handoff.apart);
    CHECK(records.all[0].instance == InstanceId(mixed == 0 ? 1 : 2));
    CHECK(records.all[1].handoff.apart);
    CHECK(records.all[1].instance == InstanceId(1));
    world::World w;
    w.sink = &alone;
    world::run(w, {request(0, 0, 499, 10)});
    CHECK(records.all[0].ttft == alone.all[0].ttft);
    CHECK(records.all[0].e2e == alone.all[0].e2e);
  }
}
