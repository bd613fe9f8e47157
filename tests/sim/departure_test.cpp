// Clients that go away: every request ends once, no block is lost, and stretches decide what single steps
// decide.
#include <unistd.h>

#include <deque>
#include <map>
#include <optional>
#include <set>

#include "../sanitized.h"
#include "catch.h"
#include "example_scenario.h"
#include "sglang_features_world.h"
#include "sim/simulation.h"
#include "tensorrt_llm_world.h"
#include "world.h"

namespace orrery {
namespace {

using world::RandomWorld;

RandomWorld priority_world(std::uint64_t seed) {
  RandomWorld out = world::random_world(seed);
  out.world.config.by_priority = true;
  return out;
}

// Who decides on drafts outlives the world that is handed out.
RandomWorld speculating_world(std::uint64_t seed) {
  static std::deque<world::FeaturedWorld> kept;
  kept.push_back(world::tensorrt_llm_featured_world(seed));
  return kept.back().random;
}

constexpr std::uint64_t seeds = sanitized ? 8 : 40;  // under a sanitizer fewer worlds

constexpr std::array engines{world::random_world,
                             priority_world,
                             world::random_sglang_world,
                             world::random_sglang_features,
                             world::tensorrt_llm_world,
                             world::tensorrt_llm_tier_world,
                             world::tensorrt_llm_windows_world,
                             speculating_world};

// Four in ten lose their patience after a millisecond to three seconds, some of them by a time-out.
void lose_patience(RandomWorld& w, std::uint64_t seed) {
  RandomStream r(seed, RandomPurpose::property_test, 99);
  for (TraceRequest& q : w.requests) {
    const std::uint64_t what = r.below(5);
    const double seconds = 0.001 + 3 * r.uniform() * r.uniform() * r.uniform();
    q.priority = static_cast<std::int32_t>(r.below(3)) - 1;
    if (what == 0) q.timeout = duration_from_seconds(seconds);
    if (what == 1) q.cancel_after = duration_from_seconds(seconds);
  }
}

FrontEndConfig front_end() {
  return {.processes = 2,
          .tokenizer_beside_loop = true,
          .request = SimDuration(200'000),
          .message = SimDuration(20'000),
          .tokenize_ps = 3'000'000,
          .detokenize_ps = 1'000'000,
          .event_ps = 60'000'000};
}

TEST_CASE("who goes away ends once, in time, with the tokens that had come, and leaves no block behind") {
  std::uint64_t cancelled = 0, timed_out = 0, partial = 0;
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto make : engines) {
      RandomWorld w = make(seed);
      lose_patience(w, seed);
      if (seed % 2 == 1 && w.world.acceptance == nullptr) w.world.front_end = front_end();
      world::Records records;
      w.world.sink = &records;
      const RunResult r = world::run(w.world, w.requests);  // an error if blocks are missing at the end
      REQUIRE(records.all.size() == w.requests.size());
      CHECK(r.completed + r.cancelled + r.timed_out + r.rejected + r.failed == w.requests.size());
      cancelled += r.cancelled;
      timed_out += r.timed_out;
      for (const RequestRecord& record : records.all) {
        const TraceRequest& q = w.requests[record.request];
        const SimDuration patience = q.timeout.ns() > 0 ? q.timeout : q.cancel_after;
        if (record.status == RequestStatus::completed) {
          if (patience.ns() > 0) CHECK(record.e2e <= patience);
          continue;
        }
        if (record.status == RequestStatus::rejected || record.status == RequestStatus::failed) continue;
        CHECK((record.status == RequestStatus::timed_out) == (q.timeout.ns() > 0));
        CHECK(record.e2e == patience);
        CHECK(record.output_tokens <= q.output_tokens);
        if (record.output_tokens > 0) CHECK(record.ttft <= record.e2e);
        partial += record.output_tokens > 0 ? 1 : 0;
      }
    }
  }
  CHECK(cancelled > seeds);
  CHECK(timed_out > seeds);
  CHECK(partial > seeds);
}

TEST_CASE("stretches, ties and single steps see the same departures") {
  for (std::uint64_t seed = 0; seed < seeds; ++seed) {
    for (const auto make : engines) {
      RandomWorld w = make(seed);
      lose_patience(w, seed);
      if (seed % 2 == 1 && w.world.acceptance == nullptr) w.world.front_end = front_end();
      world::Records together, alone;
      w.world.sink = &together;
      const RunResult stretched = world::run(w.world, w.requests);
      w.world.sink = nullptr;
      CHECK(world::run(w.world, w.requests, 17 + seed).digest == stretched.digest);
      w.world.config.stretches = false;
      w.world.sink = &alone;
      const RunResult single = world::run(w.world, w.requests);
      INFO("seed " << seed << " scheduler " << w.world.scheduler);
      CHECK(single.digest == stretched.digest);
      REQUIRE(alone.all.size() == together.all.size());
      for (std::size_t i = 0; i < alone.all.size(); ++i) {
        CHECK(alone.all[i].e2e == together.all[i].e2e);
        CHECK(alone.all[i].output_tokens == together.all[i].output_tokens);
      }
      CHECK(single.itl.count == stretched.itl.count);
      CHECK(single.itl.mean == stretched.itl.mean);
    }
  }
}

// One sequence decodes alone; its client leaves in the middle. Tokens count while they reach the client.
TEST_CASE("tokens are counted that came before the client left") {
  world::World w;
  world::Records full;
  w.sink = &full;
  std::vector<TraceRequest> one{world::request(0, 0, 100, 400)};
  world::run(w, one);
  const RequestRecord& whole = full.all.front();
  const SimDuration gap((whole.e2e - whole.ttft).ns() / 399);
  for (const std::int64_t tokens : {0, 1, 2, 50, 399}) {
    world::Records cut;
    w.sink = &cut;
    one.front().cancel_after = SimDuration(whole.ttft.ns() + gap.ns() * (tokens - 1) + gap.ns() / 2);
    world::run(w, one);
    CHECK(cut.all.front().status == RequestStatus::cancelled);
    CHECK(std::abs(cut.all.front().output_tokens - tokens) <= 1);
  }
}

// The pool holds one of two; the second can only run when the first one's blocks are given back.
TEST_CASE("§1.5 blocks of a client that left are free for the next request at the next step") {
  for (const char* scheduler : {"vllm-v1", "tensorrt-llm"}) {
    world::World w;
    w.scheduler = scheduler;
    w.config.num_gpu_blocks = 1 + 2100 / 16;
    world::Records records;
    w.sink = &records;
    std::vector<TraceRequest> two{world::request(0, 0, 1000, 1000), world::request(1, 0.001, 1500, 10)};
    two[0].cancel_after = duration_from_seconds(0.2);
    world::run(w, two);
    CHECK(records.all[0].status == RequestStatus::cancelled);
    CHECK(records.all[1].status == RequestStatus::completed);
    const double began = (records.all[1].arrival + records.all[1].queue).seconds();
    CHECK(began > 0.2);
    CHECK(began < 0.21);
  }
}

TEST_CASE("a closed loop sends the next request when a client gives up") {
  world::World w;
  w.concurrency = 1;
  world::Records records;
  w.sink = &records;
  std::vector<TraceRequest> two{world::request(0, 0, 100, 1000), world::request(1, 0, 100, 10)};
  two[0].timeout = duration_from_seconds(0.05);
  world::run(w, two);
  CHECK(records.all[0].status == RequestStatus::timed_out);
  CHECK(records.all[1].arrival == SimTime(0) + duration_from_seconds(0.05));
}

// Every third client leaves after 20 to 600 ms: as its request says, or without a word until then.
class Leaving final : public Inbox {
 public:
  Leaving(Inbox& inner, bool announced) : inner_(inner), announced_(announced) {}
  SimTime next() const override {
    return leaving_.empty() ? inner_.next() : earlier(inner_.next(), leaving_.begin()->first);
  }
  void poll(SimTime now, Arrivals& arrivals) override {
    inner_.poll(now, arrivals);
    for (Request& r : arrivals) {
      if (r.id.value() % 3 != 0) continue;
      const auto patience = static_cast<std::int64_t>(20 + r.id.value() * 7 % 580);
      const SimTime leaves = r.arrival + SimDuration(patience * 1'000'000);
      if (announced_)
        r.gives_up = leaves;
      else
        leaving_.emplace(leaves, r.id);
    }
  }
  void poll_departures(SimTime now, std::vector<RequestId>& gone) override {
    for (; !leaving_.empty() && leaving_.begin()->first <= now; leaving_.erase(leaving_.begin()))
      if (!over_.contains(leaving_.begin()->second)) gone.push_back(leaving_.begin()->second);
  }
  void on_finished(RequestId request, SimTime at) override {
    over_.insert(request);
    inner_.on_finished(request, at);
  }

 private:
  Inbox& inner_;
  bool announced_;
  std::multimap<SimTime, RequestId> leaving_;
  std::set<RequestId> over_;
};

TEST_CASE("who leaves without a word ends as one whose request had said when") {
  for (const char* engine : {"vllm-0.24", "sglang-0.5", "tensorrt-llm-1.2"}) {
    for (const bool stretches : {true, false}) {
      const Scenario scenario =
          small_example("{hardware: h200, model: qwen3-8b, replicas: 2, engine: " + std::string(engine) + "}",
                        {"workload.limit={requests: 120}", "workload.frontend=openai"})
              .value();
      world::Records records[2];
      RunResult result[2];
      for (const bool announced : {false, true}) {
        std::optional<Leaving> leaving;
        RunOptions options;
        options.stretches = stretches;
        options.sink = &records[announced];
        options.arrange = [&](SimulationSetup& setup) {
          setup.inbox = &leaving.emplace(*setup.inbox, announced);
        };
        result[announced] = run_scenario(scenario, options).value();  // an error if blocks are missing
      }
      INFO(engine);
      CHECK(result[0].cancelled > 10);
      CHECK(result[0].cancelled == result[1].cancelled);
      CHECK(result[0].steps == result[1].steps);
      REQUIRE(records[0].all.size() == records[1].all.size());
      for (std::size_t i = 0; i < records[0].all.size(); ++i) {
        const RequestRecord &a = records[0].all[i], &b = records[1].all[i];
        CHECK(a.status == b.status);
        CHECK(a.ttft == b.ttft);
        CHECK(a.e2e == b.e2e);
        CHECK(a.queue == b.queue);
        // Tokens on their way when the first one left were not watched.
        CHECK(std::abs(a.output_tokens - b.output_tokens) <= (a.status == RequestStatus::cancelled ? 3 : 0));
      }
    }
  }
}

class CountedEnds final : public Executor {
 public:
  explicit CountedEnds(Executor& inner) : inner_(inner) {}
  void submit(StepId s, InstanceId i, const StepPlan& p, SimTime now) override {
    inner_.submit(s, i, p, now);
  }
  void transfer(InstanceId i, std::span<const TransferWork> work, SimTime now) override {
    inner_.transfer(i, work, now);
  }
  void cut(InstanceId i, SimTime at) override { inner_.cut(i, at); }
  void ended(InstanceId i, SequenceId s) override {
    ++ends;
    inner_.ended(i, s);
  }
  void take_input(InstanceId i, std::int64_t n, SimTime at) override { inner_.take_input(i, n, at); }
  SimTime next_event() const override { return inner_.next_event(); }
  void collect(SimTime now, Outcomes& out) override { inner_.collect(now, out); }
  std::int32_t depth(InstanceId i) const override { return inner_.depth(i); }
  SimDuration output_delay(InstanceId i) const override { return inner_.output_delay(i); }
  SimDuration output_per_sequence(InstanceId i) const override { return inner_.output_per_sequence(i); }
  std::uint64_t ends = 0;

 private:
  Executor& inner_;
};

// An executor keeps something of its own for a sequence (live: blocks), whoever ends it. Each newcomer is
// more important than all before it, so that one that waits makes place for it.
TEST_CASE(
    "executors are told once of every sequence's end, also of one that a better one put out of the queue") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("orrery-departure-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream trace(folder / "ranked.jsonl");
  for (int i = 0; i < 60; ++i)
    trace << "{\"timestamp\": " << 2 * i
          << ", \"input_length\": 300, \"output_length\": 60, \"priority\": " << i << "}\n";
  trace.close();
  const Scenario scenario = small_example(
                                "{hardware: h200, model: qwen3-8b, engine: sglang-0.5, engine_args: "
                                "{enable_priority_scheduling: true, disable_priority_preemption: true, "
                                "max_running_requests: 4, max_queued_requests: 5}}",
                                {"workload={trace: " + (folder / "ranked.jsonl").string() + "}"})
                                .value();
  std::optional<CountedEnds> counted;
  RunOptions options;
  options.arrange = [&](SimulationSetup& setup) { setup.executor = &counted.emplace(*setup.executor); };
  const RunResult result = run_scenario(scenario, options).value();
  std::filesystem::remove_all(folder);
  CHECK(result.completed >= 9);
  CHECK(result.rejected >= 10);
  CHECK(counted->ends == result.completed + result.rejected);
}

}  // namespace
}  // namespace orrery
