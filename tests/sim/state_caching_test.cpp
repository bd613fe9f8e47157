// Prefix caching of models in which some layers keep a state, on vLLM: passes of the scheduler written down
// as lines and checked by hand, and what must hold of every run. Rules: vllm 0.24.0,
// v1/core/sched/scheduler.py
// (`_mamba_block_aligned_split`), v1/core/single_type_kv_cache_manager.py (MambaManager) and
// v1/core/kv_cache_coordinator.py (`find_longest_cache_hit`).
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "sim/policies.h"
#include "world.h"

using namespace orrery;

namespace {

constexpr std::uint64_t fewer = sanitized ? 3 : 1;

// A line reads "0:100@16 | 2 | free 20": request 0 gets 100 prompt tokens behind 16 computed ones, two
// sequences decode, 20 blocks are free after the step's allocations.
class Desk {
 public:
  explicit Desk(const SchedulerConfig& config) : scheduler_(make_vllm_v1(config)) {}

  std::uint64_t add(std::int32_t prompt, std::int32_t output, std::vector<std::uint64_t> ids,
                    std::uint64_t stream = 0) {
    Request r;
    r.id = RequestId(requests_);
    r.prompt_tokens = prompt;
    r.max_output_tokens = output;
    r.hash_block_size = 16;
    r.hash_ids = std::move(ids);
    r.stream = stream;
    scheduler_->add(r);
    return requests_++;
  }
  std::string pass() {
    const StepPlan& plan = scheduler_->schedule();
    std::string line;
    for (const PrefillWork& w : plan.prefill) {
      line += std::to_string(w.request.value()) + ":" + std::to_string(w.new_tokens) + "@" +
              std::to_string(w.context) + " ";
    }
    line += "| " + std::to_string(plan.decode_sequences) + " | free " + std::to_string(plan.free_blocks);
    if (plan.tokens() == 0) return line;
    const SimTime at = SimTime(1);
    StepOutcome outcome;
    outcome.first = StepId(updated_++);
    outcome.scheduled = 1;
    outcome.updates = {&at, 1};
    scheduler_->on_outcome(outcome);
    return line;
  }
  void passes(int n) {
    for (int i = 0; i < n; ++i) pass();
  }

 private:
  std::unique_ptr<Scheduler> scheduler_;
  std::uint64_t requests_ = 0, updated_ = 0;
};

// 100 blocks of 16 tokens; one group of layers attends, two keep a state.
SchedulerConfig config(std::int64_t budget, bool chunk_ends = true) {
  SchedulerConfig c{.max_num_batched_tokens = budget,
                    .max_num_seqs = 64,
                    .max_model_len = 1600,
                    .num_gpu_blocks = 101,
                    .block_size = 16};
  c.steps_in_flight = 1;
  c.stretches = false;
  c.kv_groups = {.full = 1, .states = 2, .cached_states = true, .chunk_ends = chunk_ends};
  return c;
}

std::vector<std::uint64_t> ids(std::uint64_t shared, std::uint64_t all, std::uint64_t own) {
  std::vector<std::uint64_t> out;
  for (std::uint64_t i = 0; i < all; ++i) out.push_back(i < shared ? i : 1000 * own + i);
  return out;
}

}  // namespace

TEST_CASE(
    "§2.7 align: chunks end where blocks do, the last block begins a chunk, a state is kept for a step") {
  Desk desk(config(70));
  desk.add(150, 3, ids(10, 10, 1));
  // 70 tokens of budget: 64; four blocks of the group that attends and one of each state.
  CHECK(desk.pass() == "0:64@0 | 0 | free 94");
  CHECK(desk.pass() == "0:64@64 | 0 | free 88");  // the state at 64 is copied from, so it stays
  // To 144, where the last whole block ends; the states at 64 go, those at 128 stay: 88 + 2 − 1 − 2.
  CHECK(desk.pass() == "0:16@128 | 0 | free 87");
  CHECK(desk.pass() == "0:6@144 | 0 | free 86");  // + 2 − 3
  CHECK(desk.pass() == "| 1 | free 88");          // and those at 144
  CHECK(desk.pass() == "| 1 | free 88");
  CHECK(desk.pass() == "| 0 | free 100");
}

TEST_CASE("all: a state for every block, of which the newest stays; chunks end anywhere") {
  Desk desk(config(70, false));
  desk.add(150, 3, ids(10, 10, 1));
  CHECK(desk.pass() == "0:70@0 | 0 | free 85");    // 5 blocks in each of three groups
  CHECK(desk.pass() == "0:70@70 | 0 | free 81");   // blocks 0 to 3 of the states go: 85 + 8 − 12
  CHECK(desk.pass() == "0:10@140 | 0 | free 86");  // and 4 to 7: 81 + 8 − 3
}

TEST_CASE("a state serves at the end of its block: none inside a common prefix, until somebody leaves one") {
  Desk desk(config(8192));
  desk.add(150, 1, ids(6, 10, 1));
  CHECK(desk.pass() == "0:144@0 | 0 | free 89");
  desk.passes(2);
  // Six blocks are common, and no state was kept at their end: nothing is found, and the chunk ends there
  // (num_uncached_common_prefix_tokens).
  desk.add(150, 1, ids(6, 10, 2));
  CHECK(desk.pass().starts_with("1:96@0 "));
  CHECK(desk.pass().starts_with("1:48@96 "));
  CHECK(desk.pass().starts_with("1:6@144 "));
  desk.pass();
  // The next one finds it.
  desk.add(150, 1, ids(6, 10, 3));
  CHECK(desk.pass().starts_with("2:48@96 "));
  desk.passes(2);
  // All of the first request's prompt: 144 of 150.
  desk.add(150, 1, ids(6, 10, 1));
  CHECK(desk.pass().starts_with("3:6@144 "));
}

TEST_CASE("§2.7 a state that a step leaves is found from the next step on") {
  for (const bool chunk_ends : {true, false}) {
    Desk desk(config(8192, chunk_ends));
    desk.add(150, 4, ids(10, 10, 1));
    desk.add(150, 4, ids(10, 10, 1));
    CHECK(desk.pass().starts_with(chunk_ends ? "0:144@0 | 0 " : "0:150@0 | 0 "));
    CHECK(desk.pass().starts_with(chunk_ends ? "0:6@144 1:6@144 | 0 " : "1:6@144 | 1 "));
  }
}

TEST_CASE("the next turn of a session finds the last state that decoding left behind") {
  for (const bool chunk_ends : {true, false}) {
    Desk desk(config(8192, chunk_ends));
    desk.add(40, 61, {}, 7);
    desk.passes(70);
    // 100 tokens have a state behind them, six blocks of which the last ended 4 tokens ago.
    desk.add(130, 1, {}, 7);
    CHECK(desk.pass().starts_with(chunk_ends ? "1:32@96 " : "1:34@96 "));
  }
}

TEST_CASE("the gate of a prompt: with a state a chunk one block of each group, with one a block all") {
  SchedulerConfig c = config(64);
  c.num_gpu_blocks = 31;
  Desk few(c);
  few.add(400, 1, {});  // 25 + 2 of 30 blocks
  CHECK(few.pass() == "0:64@0 | 0 | free 24");
  c.kv_groups.chunk_ends = false;
  Desk many(c);
  many.add(400, 1, {});  // 75 of 30
  CHECK(many.pass() == "| 0 | free 30");
}

TEST_CASE("cached states: every request ends once, tokens add up, no block leaks") {
  for (const bool chunk_ends : {true, false}) {
    world::Visited visited;
    std::uint64_t stretches = 0;
    for (std::uint64_t seed = 1; seed <= 120 / fewer; ++seed) {
      auto [w, requests] = world::random_world(seed);
      SchedulerConfig& c = w.config;
      c.enable_prefix_caching = true;
      c.kv_groups = {.full = 1,
                     .states = static_cast<std::int32_t>(seed % 3) + 1,
                     .cached_states = true,
                     .chunk_ends = chunk_ends};
      c.num_gpu_blocks = (c.num_gpu_blocks + 80) * (1 + c.kv_groups.states);
      if (seed % 2 == 0 && chunk_ends) c.num_gpu_blocks = c.num_gpu_blocks / (1 + c.kv_groups.states) + 10;
      CAPTURE(seed, chunk_ends);
      world::check_conservation(
          w, requests, [](const TraceRequest&) { return false; }, visited);
      if (seed % 3 != 0) continue;
      const RunResult a = world::run(w, requests);
      w.config.stretches = false;
      REQUIRE(world::run(w, requests).digest == a.digest);
      stretches += a.stretches;
    }
    CHECK(visited.cached > 300 / fewer);
    CHECK(stretches > 100 / fewer);
    if (chunk_ends) CHECK(visited.preemptions > 5 / fewer);
  }
}

TEST_CASE("§2.7 cached states beside drafts: every request ends once, tokens add up, no block leaks") {
  world::Visited visited;
  for (std::uint64_t seed = 1; seed <= 60 / fewer; ++seed) {
    auto [w, requests] = world::random_world(seed);
    SchedulerConfig& c = w.config;
    const auto drafts = static_cast<std::int32_t>(1 + seed % 3);
    const SampledAcceptance oracle(seed, std::vector<double>(static_cast<std::size_t>(drafts), 0.6), 1);
    w.acceptance = &oracle;
    c.enable_prefix_caching = true;
    c.speculation = {.tokens = drafts, .lookahead = drafts, .drops_last_hit = true};
    c.kv_groups = {.full = 1,
                   .states = static_cast<std::int32_t>(seed % 3) + 1,
                   .cached_states = true,
                   .chunk_ends = true};
    if (seed % 2 != 0)
      c.num_gpu_blocks = (c.num_gpu_blocks + 80) * (1 + c.kv_groups.states);
    else
      c.num_gpu_blocks += 80;
    CAPTURE(seed);
    world::check_conservation(
        w, requests, [](const TraceRequest&) { return false; }, visited);
  }
  CHECK(visited.cached > 100 / fewer);
  CHECK(visited.accepted > 1000 / fewer);
  CHECK(visited.preemptions > 0);
}
