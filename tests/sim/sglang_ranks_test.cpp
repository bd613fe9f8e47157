// What SGLang's attention ranks tell one another about prompts: the prefill delayer
// (managers/prefill_delayer.py of 0.5.23) and prefill_decode_interval. By hand pass by pass, and in whole
// worlds.
#include "sim/sglang_ranks.h"

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "ranks_world.h"

using namespace orrery;

namespace {

using Rows = std::vector<std::string>;

// A letter for each rank and pass: prompts, decodes, nothing; "." for all of them where nobody runs at all.
class Ranks {
 public:
  explicit Ranks(const NamedOptions& options) {
    SchedulerConfig config{.max_num_seqs = 64, .num_gpu_blocks = 10000, .block_size = 1, .options = options};
    scheduler_ = make_instance_scheduler(*find_scheduler("sglang"), config, 2);
  }
  void add(std::int32_t prompt, std::int32_t output) {
    Request r;
    r.id = RequestId(requests_++);
    r.prompt_tokens = prompt;
    r.max_output_tokens = output;
    r.ignore_eos = true;
    REQUIRE(!scheduler_->add(r).is_none());
  }
  std::string pass() {
    scheduler_->at(SimTime(++time_));
    const bool pending = scheduler_->open_steps() > 0;
    const StepPlan& plan = scheduler_->schedule();
    std::string row;
    for (const RankPlan& rank : plan.ranks)
      row += rank.prefills > 0 ? 'P' : rank.decode_sequences > 0 ? 'D' : plan.empty_batch ? '.' : '-';
    if (!pending) return row;
    const SimTime at(time_);
    StepOutcome outcome;
    outcome.first = StepId(updated_++);
    outcome.scheduled = 1;
    outcome.updates = std::span(&at, 1);
    scheduler_->on_outcome(outcome);
    return row;
  }
  Rows passes(int n) {
    Rows rows;
    for (int i = 0; i < n; ++i) rows.push_back(pass());
    return rows;
  }

 private:
  std::unique_ptr<Scheduler> scheduler_;
  std::uint64_t requests_ = 0, updated_ = 0;
  std::int64_t time_ = 0;
};

NamedOptions delayer(std::int64_t passes) {
  NamedOptions o;
  o.set("enable_prefill_delayer", true);
  o.set("prefill_delayer_max_delay_passes", passes);
  return o;
}

}  // namespace

// `_negotiate_should_allow_prefill_pure`, prefillable_status "mixed".
TEST_CASE("§2.8 ranks: a prompt waits until the other rank has one too, for so many passes at most") {
  Ranks alone(delayer(4));
  alone.add(32, 3);
  CHECK(alone.passes(6) == Rows{"..", "..", "..", "P-", "D-", "D-"});
  Ranks both(delayer(4));
  both.add(32, 8);
  CHECK(both.pass() == "..");
  both.add(32, 8);  // in turn: to the other rank
  CHECK(both.passes(2) == Rows{"PP", "DD"});
  both.add(32, 8);
  CHECK(both.passes(4) == Rows{"DD", "DD", "DD", "PD"});
  // Where a pool is little used nobody waits.
  NamedOptions low = delayer(4);
  low.set("prefill_delayer_token_usage_low_watermark", 0.5);
  Ranks eager(low);
  eager.add(32, 3);
  CHECK(eager.pass() == "P-");
}

// The executor's answer is every rank's; a prompt that goes on in chunks is let through all the same.
TEST_CASE("§2.8 ranks: a chunk goes on whatever the answer is, and asks") {
  NamedOptions o = delayer(3);
  o.set("chunked_prefill_size", std::int64_t{40});
  Ranks r(o);
  r.add(100, 20);
  CHECK(r.passes(3) == Rows{"..", "..", "P-"});
  r.add(10, 20);  // the second chunk of rank 0 asks as well
  CHECK(r.passes(2) == Rows{"PP", "PD"});
}

TEST_CASE("§2.8 the negotiation of ranks, by what each brings") {
  const PrefillDelays rules{.on = true, .passes = 3, .low_usage = 0.2, .queue_ratio = 0.5, .most_ms = 10};
  const PrefillDelayer::Limits limits{.running_requests = 10, .prefill_requests = 0};
  const PrefillVote none, asks{.asks = true}, full{.asks = true, .running = 8, .largest = 4, .waiting = 9};
  const auto ask = [&](PrefillDelayer& d, const PrefillVote& a, const PrefillVote& b, std::int64_t ms = 0) {
    const PrefillVote votes[] = {a, b};
    return d.allows(rules, votes, limits, SimTime(ms * 1'000'000));
  };
  PrefillDelayer d;
  CHECK(ask(d, none, none));
  CHECK_FALSE(ask(d, asks, none));
  CHECK(ask(d, asks, PrefillVote{.asks = true, .little_used = true}));  // of one rank it is enough
  CHECK_FALSE(ask(d, none, asks));                                      // the count began anew
  CHECK_FALSE(ask(d, none, asks));
  CHECK(ask(d, none, asks));  // two of three passes
  // All: 10 − 8 < 4 of the fullest rank, and the largest batch of any. The first time is let pass.
  CHECK(ask(d, full, asks));
  CHECK_FALSE(ask(d, full, asks));
  CHECK_FALSE(ask(d, full, asks));
  CHECK(ask(d, full, asks));
  // A queue of min(6 · ½, 4) on one rank is enough; and a wait of 10 ms.
  const PrefillVote some{.asks = true, .running = 6, .largest = 4, .waiting = 2};
  PrefillVote queue = some;
  queue.waiting = 3;
  CHECK_FALSE(ask(d, some, asks, 20));
  CHECK(ask(d, some, queue, 21));
  CHECK_FALSE(ask(d, some, asks, 30));
  CHECK(ask(d, some, asks, 40));
}

// `_arm_prefill_decode_interval`: "This keeps every rank on the same prefill/decode cadence".
TEST_CASE("§2.8 ranks: prompts of one rank keep the other's waiting too") {
  NamedOptions o;
  o.set("prefill_decode_interval", std::int64_t{2});
  Ranks r(o);
  r.add(32, 20);
  CHECK(r.pass() == "P-");
  r.add(32, 20);
  CHECK(r.passes(4) == Rows{"D-", "D-", "DP", "DD"});
}

// Each of the passes before takes the scheduler's time and, with a profile's, the exchange between ranks.
TEST_CASE("§2.8 a prompt alone among ranks waits 29 passes of nobody, each as long as a pass takes") {
  const auto ttft = [](std::int64_t passes) {
    world::World w;
    w.scheduler = "sglang";
    w.config.block_size = 1;
    w.config.options = delayer(passes);
    w.spec = world::rank_spec(2);
    world::Records records;
    w.sink = &records;
    world::run(w, {world::request(0, 0, 100, 5)});
    return records.all.at(0).ttft.ns();
  };
  CHECK(ttft(30) - ttft(1) == 29 * 100'000);
}

TEST_CASE(
    "random worlds of ranks that negotiate: nothing leaks, the order of what comes at once is no matter") {
  world::Visited visited;
  constexpr std::uint64_t worlds = sanitized ? 10 : 50;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    auto [w, requests] = world::random_rank_world(seed);
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 81);
    NamedOptions& o = w.config.options;
    o.set("enable_prefill_delayer", r.below(4) != 0);
    o.set("prefill_delayer_max_delay_passes", static_cast<std::int64_t>(1 + r.below(20)));
    if (r.below(3) == 0) o.set("prefill_delayer_token_usage_low_watermark", 0.3);
    if (r.below(3) == 0) o.set("prefill_delayer_queue_min_ratio", 0.5);
    o.set("prefill_decode_interval", static_cast<std::int64_t>(r.below(3)));
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
    const RunResult run = world::run(w, requests);
    CHECK(world::run(w, requests, seed).digest == run.digest);
    w.config.stretches = false;
    CHECK(world::run(w, requests).digest == run.digest);
  }
  CHECK(visited.cached > worlds / 2);
}
