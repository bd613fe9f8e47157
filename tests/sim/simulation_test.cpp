// Laws and contracts of the loop and the vLLM V1 scheduler, on hand-written and random worlds.
#include "sim/simulation.h"

#include "catch.h"
#include "conservation.h"
#include "world.h"

using namespace orrery;
using world::World;

TEST_CASE("§6.1 one request alone takes prefill, decode steps and the way in and out") {
  World w;
  world::Records records;
  w.sink = &records;
  const RunResult r = world::run(w, {world::request(0, 0.5, 1000, 5)});
  REQUIRE(r.completed == 1);
  REQUIRE(r.steps == 5);
  const RequestRecord& q = records.all.at(0);
  const auto pricer = StepPricer::create(w.spec).value();
  const PrefillChunk chunk{1000, 0};
  StepShape shape = hand::prefill(std::span(&chunk, 1));
  shape.new_requests = shape.running = 1;
  const StepTiming t = pricer.price(shape);
  // Nothing else is on the pipeline: TTFT is the sum of its stages (architecture §5.1), plus the launch of
  // the second step, which the core thread finishes before it looks at the first one's output.
  const std::int64_t device_end =
      std::max(t.schedule + t.prepare + t.busy, t.schedule + t.prepare + t.launch + t.last_kernel);
  const std::int64_t least =
      pricer.input_delay().ns() + device_end + t.copy + t.update + pricer.output_delay().ns();
  CHECK(q.ttft.ns() >= least);
  CHECK(q.ttft.ns() < least + 3'000'000);
  CHECK(q.output_tokens == 5);
  CHECK(q.e2e > q.ttft);
  CHECK(r.itl.count == 4);
}

TEST_CASE("§1.2.1 chunked prefill splits at the budget and leaves decodes their place") {
  // engine_semantics §10.4: three prompts of 5000 at an idle server with 8192: 5000 + 3192, then 1808 + 5000
  // + 1 decode.
  World w;
  struct Steps final : RunObserver {
    std::vector<StepRecord> all;
    void on_step(const StepRecord& s) override { all.push_back(s); }
  } steps;
  w.observer = &steps;
  world::run(w,
             {world::request(0, 0, 5000, 3), world::request(1, 0, 5000, 3), world::request(2, 0, 5000, 3)});
  REQUIRE(steps.all.size() >= 2);
  CHECK(steps.all[0].prefill_tokens == 8192);
  CHECK(steps.all[0].prefill_chunks == 2);
  CHECK(steps.all[1].prefill_tokens == 1808 + 5000);
  CHECK(steps.all[1].decode_sequences == 1);
}

TEST_CASE(
    "§1.5 requests at once come in one after another; an idle core's first step holds those of its wake") {
  World w;
  w.spec.engine.host.input_per_request.value = Seconds(220e-6);
  w.spec.engine.host.core_wake.value = Seconds(500e-6);
  struct Steps final : RunObserver {
    std::vector<StepRecord> all;
    void on_step(const StepRecord& s) override { all.push_back(s); }
  } steps;
  w.observer = &steps;
  std::vector<TraceRequest> batch;
  for (std::uint64_t i = 0; i < 12; ++i) batch.push_back(world::request(i, 1.0, 100, 3));
  batch.push_back(world::request(12, 5.0, 100, 3));  // alone, long after
  const RunResult r = world::run(w, batch);
  CHECK(r.completed == 13);
  const auto pricer = StepPricer::create(w.spec).value();
  const std::int64_t first = 1'000'000'000 + pricer.input_delay().ns() + 500'000;
  REQUIRE(steps.all.size() > 3);
  // 0, 220 and 440 µs are inside the wake; the fourth comes at 660 µs.
  CHECK(steps.all[0].prefill_chunks == 3);
  CHECK(steps.all[0].schedule_begin.ns() == first);
  // The second step follows when the core is free again, at once: nobody wakes it.
  CHECK(steps.all[1].prefill_chunks >= 1);
  CHECK(steps.all[1].schedule_begin < steps.all[0].device_end);
  CHECK(steps.all.back().schedule_begin.ns() > 5'000'000'000 + pricer.input_delay().ns());
}

TEST_CASE(
    "prompts that come in lengthen the launch they fall into, by their tokens, in the launcher's process") {
  struct Steps final : RunObserver {
    std::vector<StepRecord> all;
    void on_step(const StepRecord& s) override { all.push_back(s); }
  };
  // A prompt of 600 tokens, launched kernel by kernel; `more` of 100 tokens come a second apart after `at_s`.
  const auto first_step = [](double us_a_token, double at_s, std::uint64_t more, std::int32_t gpus = 1) {
    World w;
    w.spec.plan.tp = gpus;
    w.spec.engine.host.input_per_token.value = Seconds(us_a_token * 1e-6);
    Steps steps;
    w.observer = &steps;
    std::vector<TraceRequest> all{world::request(0, 0, 600, 30)};
    for (std::uint64_t i = 1; i <= more; ++i) all.push_back(world::request(i, at_s, 100, 1));
    const RunResult result = world::run(w, all);
    CHECK(result.completed == more + 1);
    w.observer = nullptr;
    w.config.stretches = false;
    CHECK(world::run(w, all).digest == result.digest);
    REQUIRE(steps.all.size() > 1);
    REQUIRE(steps.all[0].prefill_tokens == 600);
    return steps.all[0].device_end - steps.all[0].launch_begin;
  };
  const auto ms = [](SimDuration d) { return static_cast<double>(d.ns()) * 1e-6; };
  // A hundred tokens are 40 ms of work, more than what the device has to do: the step ends that much after
  // its launch would have.
  const double one = ms(first_step(400, 0.001, 1)), two = ms(first_step(400, 0.001, 2)),
               three = ms(first_step(400, 0.001, 3));
  CHECK(two - one == Approx(40).margin(1e-6));
  CHECK(three - two == Approx(40).margin(1e-6));
  CHECK(one > 40);
  const double alone = ms(first_step(400, 0, 0));
  CHECK(one - alone < 40);  // the device works meanwhile
  CHECK(ms(first_step(0, 0.001, 3)) == alone);
  CHECK(ms(first_step(400, 2, 3)) == alone);                          // long after
  CHECK(first_step(400, 0.001, 3, 2) == first_step(0, 0.001, 3, 2));  // worker processes launch
}

TEST_CASE("§2.2 a prefix that was computed is found, whole blocks only, never the last token") {
  World w;
  world::Records records;
  w.sink = &records;
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < 3; ++i) {
    auto q = world::request(i, static_cast<double>(i), i == 2 ? 96 : 100, 4);
    q.hash_ids = {42};
    all.push_back(q);
  }
  world::run(w, all);
  CHECK(records.all[0].cached_tokens == 0);
  CHECK(records.all[1].cached_tokens == 96);
  CHECK(records.all[2].cached_tokens == 80);
}

TEST_CASE("§1.3 a pool too small for all preempts the latest, and everybody still ends") {
  World w;
  world::Records records;
  w.sink = &records;
  w.config.num_gpu_blocks = 1 + 3 * 40;  // 120 usable blocks of 16 tokens
  w.config.max_model_len = 1920;
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < 6; ++i)
    all.push_back(world::request(i, 0.001 * static_cast<double>(i), 300, 600));
  const RunResult r = world::run(w, all);
  CHECK(r.completed == 6);
  CHECK(r.preemptions > 0);
  CHECK(records.all[0].preemptions == 0);
  for (const RequestRecord& q : records.all) CHECK(q.output_tokens == 600);
}

TEST_CASE("§1.4 a prompt at the model's limit is rejected, and outputs stop there") {
  World w;
  world::Records records;
  w.sink = &records;
  w.config.max_model_len = 1024;
  const RunResult r = world::run(w, {world::request(0, 0, 1024, 5), world::request(1, 0, 1000, 100)});
  CHECK(r.rejected == 1);
  CHECK(records.all[0].status == RequestStatus::rejected);
  CHECK(records.all[1].output_tokens == 24);
}

TEST_CASE("§1.5 an EOS before the limit is learned one step late and wastes nothing else") {
  World w;
  world::Records records;
  w.sink = &records;
  auto q = world::request(0, 0, 100, 10);
  const RunResult known = world::run(w, {q});
  q.max_output_tokens = 50;
  const RunResult eos = world::run(w, {q});
  CHECK(records.all[0].output_tokens == 10);
  CHECK(records.all[1].output_tokens == 10);
  CHECK(eos.steps == known.steps + 1);
  CHECK(eos.itl.count == known.itl.count);
}

TEST_CASE("an EOS that the model's limit came before is nobody's: not of the next request in its place") {
  World w;
  world::Records records;
  w.sink = &records;
  w.config.max_model_len = 1024;
  w.concurrency = 1;
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < 12; ++i) {
    // Stopped after 24 tokens, while its EOS would be the 40th; then one that needs many steps for its
    // prompt.
    auto cut = world::request(2 * i, 0, 1000, 40);
    cut.max_output_tokens = 100;
    all.push_back(cut);
    all.push_back(world::request(2 * i + 1, 0, 900, 60));
  }
  w.config.max_num_batched_tokens = 32;
  const RunResult r = world::run(w, all);
  REQUIRE(r.completed == 24);
  for (std::size_t i = 0; i < 12; ++i) {
    CHECK(records.all[2 * i].output_tokens == 24);
    CHECK(records.all[2 * i + 1].output_tokens == 60);
  }
}

TEST_CASE("a closed loop keeps so many in flight, in trace order") {
  World w;
  world::Records records;
  w.sink = &records;
  w.concurrency = 4;
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < 40; ++i) all.push_back(world::request(i, 0, 64, 20));
  const RunResult r = world::run(w, all);
  REQUIRE(r.completed == 40);
  for (std::size_t i = 0; i < 40; ++i) {
    std::size_t in_flight = 0;
    for (const RequestRecord& other : records.all) {
      in_flight +=
          other.arrival <= records.all[i].arrival && records.all[i].arrival < other.arrival + other.e2e ? 1
                                                                                                        : 0;
    }
    CHECK(in_flight <= 4);
    if (i > 0) CHECK(records.all[i].arrival >= records.all[i - 1].arrival);
  }
}

TEST_CASE("more clients than requests cost nothing and change nothing") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 40; ++i) requests.push_back(world::request(i, 0, 300, 20));
  World w;
  w.concurrency = 40;
  const auto digest = world::run(w, requests).digest;
  w.concurrency = 1'000'000'000;  // a slot for each would take 16 GB
  CHECK(world::run(w, requests).digest == digest);
}

TEST_CASE("with one sequence at a time the queue obeys Lindley's recursion") {
  World w;
  world::Records records;
  w.sink = &records;
  w.config.max_num_seqs = 1;
  w.spec.engine.steps_in_flight = 1;
  RandomStream random(3, RandomPurpose::property_test);
  std::vector<TraceRequest> all;
  double at = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    at += random.exponential(0.12);
    all.push_back(world::request(i, at, 200, 12));
  }
  world::run(w, all);
  // W(n+1) = max(0, W(n) + S − T) with a constant service time S: the time a request occupies the engine.
  // Read off a request that found it idle, without the way in and out (which overlap with other work), with
  // the loop's gap.
  const auto pricer = StepPricer::create(w.spec).value();
  const std::int64_t gap = duration_from_seconds(w.spec.engine.host.loop_gap.value.value()).ns();
  const std::int64_t service =
      records.all[0].e2e.ns() - pricer.input_delay().ns() - pricer.output_delay().ns() + gap;
  std::int64_t wait = 0, longest = 0;
  for (std::size_t i = 1; i < records.all.size(); ++i) {
    const std::int64_t between = (records.all[i].arrival - records.all[i - 1].arrival).ns();
    wait = std::max<std::int64_t>(0, wait + service - between);
    longest = std::max(longest, wait);
    const std::int64_t waited = records.all[i].e2e.ns() - records.all[0].e2e.ns();
    REQUIRE(std::abs(waited - wait) <= 100'000);  // 0.1 % of one service time
  }
  CHECK(longest > 3 * service);
}

TEST_CASE("random worlds: every request ends once, tokens add up, no block leaks, Little's law") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    const auto [w, requests] = world::random_world(seed);
    CAPTURE(seed);
    world::check_conservation(
        w, requests, [](const TraceRequest&) { return false; }, visited);
  }
  CHECK(visited.preemptions > 100);
  CHECK(visited.cached > 1000);
  CHECK(visited.eos > 1000);
  CHECK(visited.stretches > 1000);
}

TEST_CASE("per-request inter-token gaps add up to the request's decode time") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const auto [w, requests] = world::random_world(seed);
    CAPTURE(seed);
    world::check_gaps(w, requests, 0);
  }
}
