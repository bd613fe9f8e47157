// SGLang's layers with a state beside drafts, mixed chunks, pipeline stages and ranks (0.5.23's wheel:
// components/mamba.py, speculative/spec_utils.py, managers/schedule_batch.py and scheduler_pp_mixin.py).
#include "../sanitized.h"
#include "base/random.h"
#include "catch.h"
#include "conservation.h"
#include "ranks_world.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;

namespace {

SglangConfig stateful(std::int64_t slots = 1000) {
  SglangConfig c = config();
  c.cache.state_slots = slots;
  c.states = {.of_sequence = 3, .chunk = 64, .interval = 256, .in_turn = true};
  return c;
}

SglangConfig drafting() {
  SglangConfig c = stateful();
  c.speculation = {.tokens = 3, .lookahead = 3};
  return c;
}

// A session's first turn of 200 tokens and so many outputs; then the row that admits its next of `prompt`.
std::string second_turn(Driver& d, std::int32_t outputs, std::int32_t prompt) {
  d.acceptance.accepts = 3;
  d.add({.prompt = 200, .max_output = outputs, .stream = 7});
  d.drain();
  d.add({.prompt = prompt, .max_output = 4, .stream = 7});
  return d.pass();
}

void keep_states(world::World& w, RandomStream& r, bool overlap) {
  const std::int64_t of_sequence = overlap ? 3 : 2, rows = 2 + static_cast<std::int64_t>(r.below(20));
  w.config.kv_groups.state_slots = rows * (of_sequence + 2) + static_cast<std::int64_t>(r.below(40));
  w.config.kv_groups.slots_of_sequence = static_cast<std::int32_t>(of_sequence);
  w.config.kv_groups.state_chunk = 64;
  w.config.max_num_seqs = rows;
}

}  // namespace

// UnifiedTreeCore: `is_eagle = params.is_eagle and ComponentType.MAMBA not in components`.
TEST_CASE("drafts: keys are tokens beside states, not pairs, and a verification leaves the state it passed") {
  Driver d(drafting());
  // Verified in fours: 200, 204 … 256.
  CHECK(second_turn(d, 100, 320) == "extend 1:64@256");
  SglangConfig plain = drafting();
  plain.cache.state_slots = 0;
  Driver without(plain);
  // Pairs: of the 300 tokens that were written 299.
  CHECK(second_turn(without, 100, 320) == "extend 1:21@299");
}

// `_select_finished_checkpoint`: the state ran past the key.
TEST_CASE("drafts: a run that passes a boundary behind the end leaves the state before it, of two") {
  {
    Driver d(drafting());
    CHECK(second_turn(d, 55, 320) == "extend 1:128@192");  // 255 tokens said, 256 verified: none before
  }
  for (const std::int64_t in_turn : {2, 1}) {
    SglangConfig c = drafting();
    c.states.of_sequence = 1 + in_turn;
    Driver d(c);
    CHECK(second_turn(d, 311, 600) == (in_turn == 2 ? "extend 1:344@256" : "extend 1:408@192"));
    SglangConfig whole = c;
    Driver e(whole);
    CHECK(second_turn(e, 313, 600) == "extend 1:88@512");
  }
}

// `mix_with_running`: the running rows' mask is false.
TEST_CASE("mixed chunks: a decode that passes a boundary beside a prompt leaves no state there") {
  for (const std::int32_t missed : {0, 256, 320}) {
    CAPTURE(missed);
    SglangConfig c = stateful();
    c.enable_mixed_chunk = true;
    c.states.interval = 64;
    Driver d(c);
    d.add({.prompt = 200, .max_output = 150, .stream = 7});
    d.pass();
    if (missed > 0) {
      d.passes(missed - 201);
      d.add({30, 2});
      CHECK(d.pass() == "mixed 1:30@0 + 1 ctx " + std::to_string(missed - 1));
    }
    d.drain();
    d.add({.prompt = 400, .max_output = 4, .stream = 7});
    const std::int64_t found = missed == 320 ? 256 : 320;
    CHECK(d.pass() == "extend " + std::to_string(missed > 0 ? 2 : 1) + ':' + std::to_string(400 - found) +
                          '@' + std::to_string(found));
  }
}

TEST_CASE("random worlds of states beside drafts and mixed chunks: everybody ends, nothing is left over") {
  std::int64_t retracted = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 31);
    const auto draw = [&](std::int64_t low, std::int64_t high) {
      return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
    };
    SglangConfig c = stateful(draw(20, 30));
    c.cache.tokens = draw(900, 1500);
    c.context_length = 800;
    c.max_running_requests = 4;
    c.schedule_conservativeness = 0.1;
    c.chunked_prefill_size = draw(0, 1) == 0 ? 150 : 8192;
    c.states.interval = 64 * draw(1, 3);
    c.enable_mixed_chunk = draw(0, 1) == 0;
    if (draw(0, 2) > 0) c.speculation = {.tokens = static_cast<std::int32_t>(draw(1, 4)), .lookahead = 4};
    Driver d(c);
    d.acceptance.accepts = static_cast<std::int32_t>(draw(0, 4));
    std::size_t added = 0;
    for (int i = 0; i < 25; ++i) {
      const auto prompt = static_cast<std::int32_t>(draw(1, 500)),
                 output = static_cast<std::int32_t>(draw(1, 250));
      if (d.add({.prompt = prompt, .max_output = output, .stream = static_cast<std::uint64_t>(draw(1, 5))}))
        ++added;
      for (std::int64_t passes = draw(0, 60); passes-- > 0 && d.scheduler.has_work();)
        retracted += d.pass().find("retract") != std::string::npos ? 1 : 0;
    }
    REQUIRE(d.drain(50000) < 50000);
    REQUIRE(d.ended.size() + d.aborted.size() == added);
    const RadixCache& cache = d.scheduler.cache();
    REQUIRE(cache.held() == 0);
    REQUIRE(cache.held_states() == 0);
    REQUIRE(cache.locked_states() == 0);
    REQUIRE(cache.free_states() + cache.idle_states() == c.cache.state_slots);
  }
  CHECK(retracted > 10);
}

TEST_CASE("random worlds of states in pipeline stages, and on ranks: every request ends once") {
  world::Visited visited;
  constexpr std::uint64_t worlds = sanitized ? 8 : 40;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    CAPTURE(seed);
    const bool stages = seed % 2 == 0;
    auto [w, requests] = stages ? world::random_sglang_world(seed) : world::random_rank_world(seed);
    RandomStream r(seed, RandomPurpose::property_test, 32);
    if (stages) {
      const auto pp = static_cast<std::int32_t>(2 + r.below(3));
      w.spec.plan.pp = pp;
      w.spec.engine.engine = "sglang";
      w.spec.engine.pipeline = PipelineCosts{hand::plain(0.5), hand::us(200), hand::us(0)};
      w.spec.engine.steps_in_flight = pp;
      w.config.pipeline = {.stages = pp, .micro_batches = pp};
      w.config.num_gpu_blocks = 60000 / w.config.block_size;
    }
    keep_states(w, r, !stages);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
    if (seed % 8 < 2) REQUIRE(world::run(w, requests, seed).digest == world::run(w, requests).digest);
  }
}
