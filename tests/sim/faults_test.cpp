// Instances that are lost, slow, updated, scaled: hand-computed times, and conservation whatever happens.
#include <map>

#include "catch.h"
#include "conservation.h"
#include "tensorrt_llm_world.h"
#include "world.h"

using namespace orrery;
using world::request;
using world::World;

namespace {

SimTime at(double s) { return SimTime(0) + duration_from_seconds(s); }
SimDuration lasting(double s) { return duration_from_seconds(s); }

FaultPlan gpu_fault(std::uint32_t instance, double from_s, double factor = 0, double for_s = -1) {
  FaultPlan f;
  f.gpus = {{InstanceId(instance), 0}};
  f.factor = factor;
  f.at = at(from_s);
  if (for_s >= 0) f.lasts = lasting(for_s);
  return f;
}

FleetPlan plan(std::vector<FaultPlan> faults, double detection_s = 0, double start_s = 20) {
  FleetPlan p;
  p.faults = std::move(faults);
  p.recovery = {.retry = true, .retries = 3, .detection = lasting(detection_s)};
  PoolPlan pool;
  pool.start = lasting(start_s);
  p.pools = {pool};
  return p;
}

struct Seen {
  RunResult result;
  std::vector<RequestRecord> records;
};
Seen run_seen(World w, std::vector<TraceRequest> requests) {
  world::Records records;
  w.sink = &records;
  RunResult r = world::run(w, std::move(requests));
  return {std::move(r), std::move(records.all)};
}

struct Steps final : RunObserver {
  std::vector<StepRecord> all;
  std::vector<FleetResult::Stay> stays;
  void on_step(const StepRecord& s) override { all.push_back(s); }
  void on_stay(const FleetResult::Stay& s) override { stays.push_back(s); }
};

SimDuration input_delay(const World& w) { return StepPricer::create(w.spec).value().input_delay(); }

}  // namespace

TEST_CASE("a GPU at half its speed takes a prompt's kernels twice as long [faults]") {
  World w;
  StepShape shape;
  const std::vector<PrefillChunk> chunk{{4000, 0}};
  shape.prefill = chunk;
  shape.new_requests = shape.running = 1;
  const std::int64_t busy = StepPricer::create(w.spec).value().price(shape).busy;
  const auto duration = [&](std::vector<FaultPlan> faults) {
    Steps steps;
    w.observer = &steps;
    w.fleet = plan(std::move(faults));
    world::run(w, {request(0, 1, 4000, 1)});
    REQUIRE(steps.all.size() == 1);
    return (steps.all[0].device_end - steps.all[0].device_begin).ns();
  };
  const std::int64_t healthy = duration({});
  CHECK(duration({gpu_fault(0, 0.5, 0.5)}) - healthy == busy);
  CHECK(duration({gpu_fault(0, 0.5, 0.25)}) - healthy == 3 * busy);
  CHECK(duration({gpu_fault(0, 0.5, 0.5, 0.4)}) == healthy);                            // mended in time
  CHECK(duration({gpu_fault(0, 0.5, 0.5), gpu_fault(0, 0.6, 0.8)}) - healthy == busy);  // the worst counts
}

TEST_CASE("a slow GPU changes steps begun from then on, in the middle of a stretch too [faults]") {
  World w;
  const auto steps_of = [&](bool stretches, std::vector<FaultPlan> faults) {
    Steps steps;
    w.observer = &steps;
    w.config.stretches = stretches;
    w.fleet = plan(std::move(faults));
    world::run(w, {request(0, 0, 500, 800)});
    return steps.all;
  };
  const auto healthy = steps_of(false, {}), slow = steps_of(false, {gpu_fault(0, 1, 0.5)});
  REQUIRE(healthy.size() == slow.size());
  std::size_t slower = 0;
  for (std::size_t i = 1; i < slow.size(); ++i) {
    const std::int64_t a = (healthy[i].device_end - healthy[i].device_begin).ns();
    const std::int64_t b = (slow[i].device_end - slow[i].device_begin).ns();
    if (slow[i].schedule_begin < at(1)) {
      CHECK(slow[i].device_end == healthy[i].device_end);
    } else {
      ++slower;
      CHECK(static_cast<double>(b) > 1.6 * static_cast<double>(a));
      CHECK(b <= 2 * a);
    }
  }
  CHECK(slower > 100);
  const auto stretched = steps_of(true, {gpu_fault(0, 1, 0.5)});
  CHECK(stretched.size() < 20);
  CHECK(stretched.back().update_end == slow.back().update_end);
}

TEST_CASE("a lost request begins again elsewhere, and its client is told nothing twice [faults]") {
  World w;
  w.replicas = 2;
  w.fleet = plan({});
  const Seen healthy = run_seen(w, {request(0, 1, 2000, 400)});
  const RequestRecord& as_planned = healthy.records[0];
  REQUIRE(as_planned.e2e.seconds() > 1);
  w.fleet = plan({gpu_fault(0, 1.5)}, 2);
  const Seen seen = run_seen(w, {request(0, 1, 2000, 400)});
  const RequestRecord& r = seen.records[0];
  CHECK(r.status == RequestStatus::completed);
  CHECK(r.output_tokens == 400);
  CHECK(r.ttft == as_planned.ttft);
  CHECK(r.queue == as_planned.queue);
  CHECK(r.instance == InstanceId(1));
  // 0.5 s until the loss, 2 s until somebody notices, and all of it again but for the way in.
  CHECK(r.e2e == lasting(2.5) + as_planned.e2e - input_delay(w));
  const FleetResult& f = seen.result.fleet;
  CHECK(f.instances_lost == 1);
  CHECK(f.requests_lost == 1);
  CHECK(f.retries == 1);
  CHECK(f.restarts == 0);
  CHECK(f.lost_prompt_tokens == 2000);
  CHECK(f.lost_output_tokens > 10);
  CHECK(f.lost_output_tokens < 400);
  // Instance 0 is down from 1.5 s on, of the span from the arrival to the end.
  const double span = r.e2e.seconds();
  CHECK(f.availability == Approx((2 * span - (span - 0.5)) / (2 * span)));
}

TEST_CASE("by policy a lost request is failed with what its client has had [faults]") {
  World w;
  Steps steps;
  w.observer = &steps;
  w.config.stretches = false;
  w.fleet = plan({gpu_fault(0, 1.5)}, 0.25);
  w.fleet->recovery.retry = false;
  const Seen seen = run_seen(w, {request(0, 1, 2000, 400), request(1, 3, 100, 10)});
  const RequestRecord& r = seen.records[0];
  CHECK(r.status == RequestStatus::failed);
  CHECK(r.e2e == lasting(0.75));
  CHECK(static_cast<std::size_t>(r.output_tokens) == steps.all.size());  // a token a step, the prompt's too
  CHECK(seen.records[1].status == RequestStatus::failed);                // nobody is left
  CHECK(seen.records[1].e2e == input_delay(w));
  CHECK(seen.records[1].output_tokens == 0);
  CHECK(seen.result.fleet.requests_failed == 2);
  CHECK(seen.result.failed == 2);
}

TEST_CASE("requests wait for the only instance until it has started again, with an empty cache [faults]") {
  World w;
  auto first = request(0, 0, 1024, 4), same = request(1, 1, 1024, 4), later = request(2, 6, 1024, 4);
  for (TraceRequest* r : {&first, &same, &later}) r->hash_ids = {1, 2};
  w.fleet = plan({gpu_fault(0, 5, 0, 3)}, 1, 20);
  const Seen seen = run_seen(w, {first, same, later});
  CHECK(seen.records[1].cached_tokens > 900);
  CHECK(seen.records[2].cached_tokens == 0);
  CHECK(seen.records[2].status == RequestStatus::completed);
  // Broken from 5 to 8 s, then 20 s of starting; it came at 6.
  CHECK(seen.records[2].ttft + lasting(6) == lasting(28) + seen.records[0].ttft - input_delay(w));
  CHECK(seen.result.fleet.restarts == 1);
  CHECK(seen.result.fleet.requests_lost == 0);
  // For good: whoever comes is failed as soon as that is known.
  w.fleet = plan({gpu_fault(0, 5)}, 1, 20);
  const Seen gone = run_seen(w, {first, same, later});
  CHECK(gone.records[2].status == RequestStatus::failed);
  CHECK(gone.records[2].e2e <= lasting(0.1));
}

TEST_CASE("an instance that nobody has missed yet swallows requests until then [faults]") {
  World w;
  w.replicas = 2;
  w.router = "round-robin";
  w.fleet = plan({gpu_fault(0, 1)}, 4);
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < 8; ++i) all.push_back(request(i, 2 + static_cast<double>(i), 100, 5));
  const Seen seen = run_seen(w, all);
  CHECK(seen.result.completed == 8);
  // Those of 2 s and 4 s went to instance 0 and are sent again at 5 s; from then on nobody goes there.
  CHECK(seen.result.fleet.requests_lost == 2);
  CHECK(seen.records[0].e2e > lasting(3));
  CHECK(seen.records[0].e2e < lasting(3.2));
  CHECK(seen.records[2].e2e > lasting(1));
  CHECK(seen.records[4].e2e < lasting(0.2));
}

TEST_CASE("a request is given up after so many tries [faults]") {
  World w;
  std::vector<FaultPlan> faults;
  for (int i = 0; i < 10; ++i) faults.push_back(gpu_fault(0, 1 + 2 * i, 0, 0.5));
  w.fleet = plan(faults, 0, 0.5);
  const Seen seen = run_seen(w, {request(0, 0.5, 4000, 3000)});
  CHECK(seen.records[0].status == RequestStatus::failed);
  CHECK(seen.result.fleet.retries == 3);
  CHECK(seen.result.fleet.requests_lost == 4);  // at 1, 3, 5 and 7 s
  CHECK(seen.records[0].e2e == lasting(6.5));
}

TEST_CASE("clients that give up while their request has no instance end as such [faults]") {
  World w;
  auto patient = request(0, 2, 100, 5), left = request(1, 2, 100, 5);
  left.timeout = lasting(3);
  w.fleet = plan({gpu_fault(0, 1, 0, 5)}, 1, 10);
  const Seen seen = run_seen(w, {patient, left});
  CHECK(seen.records[0].status == RequestStatus::completed);
  CHECK(seen.records[1].status == RequestStatus::timed_out);
  CHECK(seen.records[1].e2e == lasting(3));
}

TEST_CASE("a rolling update restarts one instance after the other, and no request is lost [faults]") {
  World w;
  w.replicas = 3;
  Steps steps;
  w.observer = &steps;
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < 200; ++i) all.push_back(request(i, static_cast<double>(i) * 0.5, 500, 60));
  w.fleet = plan({}, 0, 10);
  w.fleet->pools[0].rolls = true;
  w.fleet->pools[0].update_at = at(5);
  const Seen seen = run_seen(w, all);
  CHECK(seen.result.completed == 200);
  const FleetResult& f = seen.result.fleet;
  CHECK(f.updated == 3);
  CHECK(f.restarts == 3);
  CHECK(f.requests_lost == 0);
  std::vector<FleetResult::Stay> starting;
  for (const auto& s : f.stays)
    if (s.state == InstanceState::starting) starting.push_back(s);
  REQUIRE(starting.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(starting[i].instance == InstanceId(static_cast<std::uint32_t>(i)));
    CHECK(starting[i].end - starting[i].begin == lasting(10));
    if (i > 0) CHECK(starting[i].begin >= starting[i - 1].end);
  }
  CHECK(steps.stays.size() == f.stays.size());
  // Alone, requests wait while it is away.
  w.replicas = 1;
  const Seen alone = run_seen(w, all);
  CHECK(alone.result.completed == 200);
  CHECK(alone.result.ttft.max > lasting(9).ns());
}

TEST_CASE("the autoscaler holds load over target, between its limits, and GPU-hours follow [faults]") {
  World w;
  w.replicas = 4;
  std::vector<TraceRequest> all;
  // A wave of 40 requests that take long, and a trickle afterwards that keeps the run going.
  for (std::uint64_t i = 0; i < 40; ++i) all.push_back(request(i, 1, 200, 2000));
  for (std::uint64_t i = 0; i < 20; ++i)
    all.push_back(request(40 + i, 60 + 5 * static_cast<double>(i), 50, 2));
  w.fleet = plan({}, 0, 4);
  PoolPlan& pool = w.fleet->pools[0];
  pool.gpus = 2;
  pool.scale = {.on = true,
                .by_queue = false,
                .target = 16,
                .least = 1,
                .at_first = 1,
                .interval = lasting(2),
                .cooldown = lasting(20)};
  const Seen seen = run_seen(w, all);
  CHECK(seen.result.completed == 60);
  const FleetResult& f = seen.result.fleet;
  REQUIRE(f.scalings.size() >= 2);
  CHECK(f.scalings[0].at == at(2));
  CHECK(f.scalings[0].from == 1);
  CHECK(f.scalings[0].to == 3);  // ⌈40 / 16⌉
  CHECK(f.scalings[1].to == 1);
  CHECK(f.scalings[1].at - f.scalings[0].at >= lasting(20));
  double off = 0;
  const SimTime from = seen.result.measured_from, to = seen.result.last_finish;
  for (const auto& s : f.stays)
    if (s.state == InstanceState::off) off += (earlier(s.end, to) - later(s.begin, from)).seconds();
  CHECK(f.gpu_hours == Approx(2 * (4 * (to - from).seconds() - off) / 3600));
  CHECK(f.gpu_hours < 0.6 * 2 * 4 * (to - from).seconds() / 3600);
  // More than the limit cannot be.
  pool.scale.target = 1;
  const Seen most = run_seen(w, all);
  CHECK(most.result.fleet.scalings[0].to == 4);
  CHECK(most.result.ttft.mean <= seen.result.ttft.mean);
}

TEST_CASE("drawn faults depend on seed and target, not on what else there is [faults]") {
  const auto stays_of = [](std::vector<FaultPlan> faults, std::uint64_t requests) {
    World w;
    w.replicas = 2;
    w.fleet = plan(std::move(faults), 0, 1);
    std::vector<TraceRequest> all;
    for (std::uint64_t i = 0; i < requests; ++i) all.push_back(request(i, static_cast<double>(i), 100, 5));
    std::vector<std::int64_t> begins;
    for (const auto& s : run_seen(w, all).result.fleet.stays)
      if (s.instance == InstanceId(0) && s.state == InstanceState::failed &&
          s.begin < at(static_cast<double>(requests) - 10))  // the run may end a little later
        begins.push_back(s.begin.ns());
    return begins;
  };
  FaultPlan drawn = gpu_fault(0, 0, 0, 2), other = gpu_fault(1, 0, 0, 3);
  drawn.mtbf_s = other.mtbf_s = 40;
  drawn.entity = 7;
  other.entity = 8;
  const auto alone = stays_of({drawn}, 400), beside = stays_of({other, drawn}, 400);
  CHECK(alone.size() > 3);
  CHECK(alone == beside);
  // Mean time between failures: 40 s and 2 s of repair, over a thousand of them.
  const auto many = stays_of({drawn}, 42000);
  CHECK(static_cast<double>(many.size()) == Approx(1000).epsilon(0.1));
}

namespace {

FleetPlan random_plan(std::uint64_t seed, std::size_t replicas) {
  RandomStream r(seed, RandomPurpose::property_test, 77);
  FleetPlan p = plan({}, r.below(2) == 0 ? 0.0 : 0.05, 0.1 + r.uniform());
  p.recovery.retry = r.below(4) != 0;
  p.recovery.retries = static_cast<std::int32_t>(r.below(4));
  const std::uint64_t faults = 1 + r.below(4);
  for (std::uint64_t i = 0; i < faults; ++i) {
    const auto instance = static_cast<std::uint32_t>(r.below(replicas));
    const double from = 3 * r.uniform(), lasts = r.below(4) == 0 ? -1 : r.uniform();
    FaultPlan f = gpu_fault(instance, from, r.below(3) == 0 ? 0.2 + 0.6 * r.uniform() : 0.0, lasts);
    if (lasts >= 0 && r.below(3) == 0) f.mtbf_s = 0.5 + r.uniform();
    f.entity = i;
    p.faults.push_back(f);
  }
  if (r.below(4) == 0) {
    p.pools[0].rolls = true;
    p.pools[0].update_at = at(r.uniform());
  } else if (r.below(3) == 0) {
    p.pools[0].scale = {.on = true,
                        .by_queue = r.below(2) == 0,
                        .target = 1 + 5 * r.uniform(),
                        .interval = lasting(0.3),
                        .cooldown = lasting(0.5)};
  }
  return p;
}

struct Tally {
  std::uint64_t lost = 0, failed = 0, completed = 0, streamed = 0;
};

void check_world(world::RandomWorld random, std::uint64_t seed, Tally& tally) {
  World& w = random.world;
  w.fleet = random_plan(seed, w.replicas);
  if (seed % 3 == 0) {
    for (std::size_t i = 0; i < random.requests.size(); i += 3)
      random.requests[i].timeout = lasting(0.2 + 0.01 * static_cast<double>(i));
  }
  CAPTURE(seed, w.scheduler, w.replicas);
  const Seen seen = run_seen(w, random.requests);  // fails where KV leaks or a request ends twice or never
  REQUIRE(seen.records.size() == random.requests.size());
  std::uint64_t tokens = 0;
  for (const RequestRecord& q : seen.records) {
    const TraceRequest& asked = random.requests[q.request];
    if (q.status == RequestStatus::completed) {
      const std::int64_t room = w.config.max_model_len - asked.prompt_tokens;
      REQUIRE(q.output_tokens == std::min<std::int64_t>(asked.output_tokens, room));
      REQUIRE(q.ttft.ns() > 0);
      REQUIRE(q.e2e >= q.ttft);
      tokens += static_cast<std::uint64_t>(q.output_tokens);
    } else if (q.status == RequestStatus::failed) {
      REQUIRE(q.output_tokens <= asked.output_tokens);
      tally.streamed += q.output_tokens > 0 ? 1 : 0;
    }
  }
  REQUIRE(seen.result.output_tokens == tokens);
  const FleetResult& f = seen.result.fleet;
  REQUIRE(f.retries + f.requests_failed >=
          f.requests_lost - std::min(f.requests_lost, seen.result.timed_out));
  REQUIRE(f.availability >= 0);
  REQUIRE(f.availability <= 1);
  tally.lost += f.requests_lost;
  tally.failed += seen.result.failed;
  tally.completed += seen.result.completed;
  // Single steps and shuffled ties decide the same.
  World single = w;
  single.config.stretches = false;
  const Seen slow = run_seen(single, random.requests);
  REQUIRE(slow.result.digest == seen.result.digest);
  REQUIRE(slow.result.fleet.lost_output_tokens == f.lost_output_tokens);
  REQUIRE(world::run(w, random.requests, seed + 1).digest == seen.result.digest);
}

}  // namespace

TEST_CASE("whatever fails, every request ends once, blocks come back, tokens add up [faults]") {
  Tally tally;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    check_world(world::random_world(seed), seed, tally);
    check_world(world::random_sglang_world(seed), seed, tally);
    check_world(world::tensorrt_llm_world(seed), seed, tally);
  }
  CHECK(tally.lost > 300);
  CHECK(tally.failed > 50);
  CHECK(tally.streamed > 20);
  CHECK(tally.completed > 3000);
}
