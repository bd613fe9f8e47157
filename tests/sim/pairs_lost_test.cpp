// Instances that are lost where both legs of a request run at once (SGLang apart, vLLM by layer): what is
// lost with them, until when the other side keeps what it has, and conservation whatever happens.
#include "../sanitized.h"
#include "apart_world.h"
#include "catch.h"
#include "ranks_world.h"
#include "sglang_features_world.h"

using namespace orrery;
using namespace apart;
using world::request;

namespace {

SimTime at(double s) { return SimTime(0) + duration_from_seconds(s); }

Apart pair(bool sglang, SimDuration transfer) {
  Apart a;
  a.transfer = transfer;
  a.rules.at_once = true;
  if (sglang) {
    a.scheduler = "sglang";
    a.world.config.block_size = 1;
    a.world.config.max_model_len = 20000;
    a.world.config.options.set("chunked_prefill_size", std::int64_t{2048});
    a.prefill_blocks = a.decode_blocks = 200000;
  } else {
    a.rules.layers = 32;
  }
  return a;
}

FaultPlan death(std::uint32_t instance, double from_s, double for_s = -1) {
  FaultPlan f;
  f.gpus = {{InstanceId(instance), 0}};
  f.at = at(from_s);
  if (for_s >= 0) f.lasts = duration_from_seconds(for_s);
  return f;
}

FleetPlan plan(const Apart& a, std::vector<FaultPlan> faults, double detection_s = 0, double start_s = 20) {
  FleetPlan p;
  p.faults = std::move(faults);
  p.recovery = {.retry = true, .retries = 3, .detection = duration_from_seconds(detection_s)};
  PoolPlan pool;
  pool.start = duration_from_seconds(start_s);
  p.pools.assign(a.mixed > 0 ? 3 : 2, pool);
  return p;
}

struct Seen {
  RunResult result;
  std::vector<RequestRecord> records;
};
Seen run_seen(Apart a, const std::vector<TraceRequest>& requests) {
  world::Records records;
  a.world.sink = &records;
  RunResult r = run(a, requests);
  std::vector<RequestRecord> all = std::move(records.all);
  std::sort(all.begin(), all.end(), [](const auto& x, const auto& y) { return x.request < y.request; });
  return {std::move(r), std::move(all)};
}

}  // namespace

TEST_CASE("a request begins again when either side is lost before its KV has come [pairs lost]") {
  for (const bool sglang : {true, false}) {
    Apart a = pair(sglang, milliseconds(200));
    a.prefills = a.decodes = 2;
    a.fleet = plan(a, {});
    const std::vector<TraceRequest> one = {request(0, 1, 1500, 40)};
    const RequestRecord healthy = run_seen(a, one).records[0];
    const SimDuration way = StepPricer::create(a.world.spec).value().input_delay();
    const double sent = 1.0 + (healthy.handoff.queue + healthy.handoff.prefill).seconds() + 0.05;
    // While its prompt is computed and while its KV is on the way; instance 0 prefills, 2 decodes.
    for (const double when : {1.0 + healthy.handoff.queue.seconds() + 0.001, sent}) {
      for (const std::uint32_t gone : {0u, 2u}) {
        CAPTURE(sglang, when, gone);
        a.fleet = plan(a, {death(gone, when)}, 2);
        const Seen seen = run_seen(a, one);
        const RequestRecord& r = seen.records[0];
        CHECK(r.status == RequestStatus::completed);
        CHECK(r.output_tokens == 40);
        CHECK(r.instance == InstanceId(gone == 2 ? 3 : 2));
        CHECK(seen.result.fleet.requests_lost == 1);
        CHECK(seen.result.fleet.retries == 1);
        CHECK(r.e2e == duration_from_seconds(when - 1.0) + duration_from_seconds(2) + healthy.e2e - way);
      }
    }
    // Its KV has come: the prefill instance is not needed any more.
    a.fleet = plan(a, {death(0, 1.0 + healthy.ttft.seconds() + 0.05)}, 2);
    const Seen late = run_seen(a, one);
    CHECK(late.result.fleet.requests_lost == 0);
    CHECK(late.records[0].e2e == healthy.e2e);
  }
}

TEST_CASE(
    "SGLang's decode side keeps slots for a dead prefill server until the second missed beat [pairs lost]") {
  // 2,000 tokens hold one prompt of 900 and 512 beside it. The first one's prefill instance dies while its KV
  // is on the way; the second request is let in when the first one's slots come back.
  for (const std::int64_t beat_s : {0, 5}) {
    CAPTURE(beat_s);
    Apart a = pair(true, milliseconds(3000));
    a.prefills = 2;
    a.decode_blocks = 2000;
    a.rules.heartbeat = duration_from_seconds(static_cast<double>(beat_s));
    a.fleet = plan(a, {death(0, 1.5)}, 0.1);
    a.fleet->recovery.retry = false;
    const Seen seen = run_seen(a, {request(0, 1, 900, 60), request(1, 2, 900, 60)});
    CHECK(seen.records[0].status == RequestStatus::failed);
    CHECK(seen.records[1].status == RequestStatus::completed);
    const SimTime scheduled = seen.records[1].arrival + seen.records[1].handoff.queue;
    if (beat_s == 0) CHECK(scheduled < at(2.1));  // 1.5 s: beats at 5 and 10 s
    if (beat_s == 5) CHECK(scheduled - at(10) < milliseconds(2));
    if (beat_s == 5) CHECK(scheduled >= at(10));
  }
}

TEST_CASE(
    "an instance's death is no transfer that fails, and none that ends, in a request's life [pairs lost]") {
  // The prefill instance dies while KV is on its way; the request begins again and is over before the first
  // attempt's slots come back (SGLang), or its blocks are let go (vLLM, whole).
  struct Kinds final : RunObserver {
    std::vector<RequestEvent::Kind> all;
    void on_request_event(const RequestEvent& e) override { all.push_back(e.kind); }
    auto count(RequestEvent::Kind kind) const { return std::count(all.begin(), all.end(), kind); }
  };
  for (const bool sglang : {true, false}) {
    for (const std::int64_t beat_s : {0, 5}) {
      CAPTURE(sglang, beat_s);
      Apart a = pair(sglang, milliseconds(1000));
      if (!sglang) a.rules = {};
      a.prefills = 2;
      a.rules.heartbeat = duration_from_seconds(static_cast<double>(beat_s));
      a.fleet = plan(a, {death(0, 1.0)}, 0.1);
      Kinds kinds;
      a.world.observer = &kinds;
      const Seen seen = run_seen(a, {request(0, 0.5, 900, 60)});
      CHECK(seen.records[0].status == RequestStatus::completed);
      CHECK(seen.result.fleet.requests_lost == 1);
      CHECK(seen.result.fleet.transfers_lost == 0);
      CHECK(kinds.count(RequestEvent::Kind::pulling) == 2);
      CHECK(kinds.count(RequestEvent::Kind::pulled) == 1);
      CHECK(kinds.count(RequestEvent::Kind::transfer_failed) == 0);
    }
  }
}

TEST_CASE("a lost decode instance lets its prefill legs go: nothing is computed for nobody [pairs lost]") {
  // Ten prompts queue at the one prefill instance; their decode instance dies; none is retried.
  Apart a = pair(true, milliseconds(1));
  a.decodes = 1;
  a.fleet = plan(a, {death(1, 1.05)}, 0.5);
  a.fleet->recovery.retry = false;
  Steps steps;
  a.world.observer = &steps;
  run(a, burst(10, 0.0, 8000, 10));
  std::int64_t before = 0, after = 0;
  for (const StepRecord& s : steps.all) (s.schedule_begin < at(1.05) ? before : after) += s.prefill_tokens;
  CHECK(before > 8000);
  CHECK(after == 0);
}

TEST_CASE(
    "without an instance of either role requests wait as a whole, and none is left behind [pairs lost]") {
  for (const bool sglang : {true, false}) {
    for (const std::uint32_t gone : {0u, 1u}) {
      CAPTURE(sglang, gone);
      Apart a = pair(sglang, milliseconds(20));
      a.fleet = plan(a, {death(gone, 0.5, 1)}, 0.1, 2);
      const Seen seen = run_seen(a, {request(0, 1, 1500, 40), request(1, 2, 100, 5)});
      for (const RequestRecord& r : seen.records) CHECK(r.status == RequestStatus::completed);
      CHECK(seen.records[0].handoff.queue == duration_from_seconds(2.5));  // ready at 3.5 s
      a.fleet = plan(a, {death(gone, 0.5)}, 0.1, 2);                       // for good
      for (const RequestRecord& r : run_seen(a, {request(0, 1, 1500, 40)}).records)
        CHECK(r.status == RequestStatus::failed);
    }
  }
}

namespace {

FleetPlan random_plan(const Apart& a, std::uint64_t seed) {
  RandomStream r(seed, RandomPurpose::property_test, 78);
  FleetPlan p = plan(a, {}, r.below(2) == 0 ? 0.0 : 0.05, 0.1 + r.uniform());
  p.recovery.retry = r.below(4) != 0;
  p.recovery.retries = static_cast<std::int32_t>(r.below(4));
  const std::uint64_t faults = 1 + r.below(4);
  for (std::uint64_t i = 0; i < faults; ++i) {
    const auto instance = static_cast<std::uint32_t>(r.below(a.prefills + a.decodes));
    const double from = 3 * r.uniform(), lasts = r.below(4) == 0 ? -1 : r.uniform();
    FaultPlan f = death(instance, from, lasts);
    if (r.below(4) == 0) f.factor = 0.2 + 0.6 * r.uniform();
    if (lasts >= 0 && r.below(3) == 0) f.mtbf_s = 0.5 + r.uniform();
    f.entity = i;
    p.faults.push_back(f);
  }
  PoolPlan& changes = p.pools[r.below(2)];
  if (r.below(4) == 0) {
    changes.rolls = true;
    changes.update_at = at(r.uniform());
  } else if (r.below(3) == 0) {
    changes.scale = {.on = true,
                     .by_queue = r.below(2) == 0,
                     .target = 1 + 5 * r.uniform(),
                     .interval = duration_from_seconds(0.3),
                     .cooldown = duration_from_seconds(0.5)};
  }
  return p;
}

// Two of SGLang's.
void set_stages(world::World& w) {
  w.spec.plan.pp = 2;
  w.spec.engine.engine = "sglang";
  w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(0)};
  w.spec.engine.steps_in_flight = 2;
  w.config.pipeline = {.stages = 2, .micro_batches = 2};
}

Apart random_apart(bool sglang, std::uint64_t seed, std::vector<TraceRequest>& requests) {
  auto [w, all] = sglang ? world::random_sglang_world(seed) : world::random_world(seed);
  RandomStream random(seed, RandomPurpose::property_test, 79);
  Apart a = pair(sglang, SimDuration(static_cast<std::int64_t>(random.below(200'000'000))));
  a.world = w;
  a.world.config.long_prefill_token_threshold = 0;
  if (sglang) {
    if (seed % 3 == 0) a.world.spec = world::rank_spec(2);
    if (seed % 6 == 1) world::speculate(a.world, random);
    if (seed % 6 == 4) set_stages(a.world);
    a.world.config.options.set("disaggregation_decode_enable_radix_cache", seed % 2 == 0);
    a.world.config.options.set("enable_mixed_chunk", false);
    a.world.config.options.set("num_reserved_decode_tokens", static_cast<std::int64_t>(random.below(64)));
    a.rules.heartbeat = SimDuration(static_cast<std::int64_t>(random.below(3) * 300'000'000));
    std::erase_if(all, [longest = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens + 600 > longest;
    });
  }
  a.prefills = 1 + random.below(3);
  a.decodes = 1 + random.below(3);
  a.prefill_blocks = a.decode_blocks = a.world.config.num_gpu_blocks;
  a.rules.retries = static_cast<std::int32_t>(random.below(2));
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].index = i;
    if (random.below(8) == 0)
      all[i].cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
    if (random.below(10) == 0) a.failures[RequestId(i)] = 1;
  }
  requests = std::move(all);
  a.fleet = random_plan(a, seed);
  return a;
}

}  // namespace

TEST_CASE("whatever is lost of pairs, requests end once, KV comes back, single steps agree [pairs lost]") {
  std::uint64_t lost = 0, failed = 0, completed = 0, retries = 0, transfers = 0;
  for (std::uint64_t seed = 1; seed <= (sanitized ? 10u : 50u); ++seed) {
    for (const bool sglang : {true, false}) {
      CAPTURE(seed, sglang);
      std::vector<TraceRequest> requests;
      Apart a = random_apart(sglang, seed, requests);
      const Seen seen = run_seen(a, requests);  // leaks, and requests without an end, are errors of the run
      REQUIRE(seen.records.size() == requests.size());
      std::uint64_t tokens = 0;
      for (std::size_t i = 0; i < requests.size(); ++i) {
        const RequestRecord& q = seen.records[i];
        REQUIRE(q.request == i);
        if (q.status == RequestStatus::completed) {
          REQUIRE(q.output_tokens == requests[i].output_tokens);
          REQUIRE(q.e2e >= q.ttft);
          tokens += static_cast<std::uint64_t>(q.output_tokens);
        }
        REQUIRE(q.output_tokens <= requests[i].output_tokens);
      }
      REQUIRE(seen.result.output_tokens == tokens);
      a.world.config.stretches = false;
      const Seen slow = run_seen(a, requests);
      REQUIRE(slow.result.digest == seen.result.digest);
      lost += seen.result.fleet.requests_lost;
      retries += seen.result.fleet.retries;
      transfers += seen.result.transfers.retried;
      failed += seen.result.failed;
      completed += seen.result.completed;
    }
  }
  const std::uint64_t least = sanitized ? 1 : 10;
  CHECK(lost > 20 * least);
  CHECK(retries > 10 * least);
  CHECK(transfers > least);
  CHECK(failed > least);
  CHECK(completed > 100 * least);
}
