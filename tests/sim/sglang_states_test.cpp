// SGLang's pool of states: what is left in the tree, found, given up, and what a prompt computes again. Facts
// from components/mamba.py, managers/schedule_batch.py (`_mamba_radix_cache_v2_req_prepare_for_extend`) and
// scheduler_components/batch_result_processor.py of the 0.5.23 wheel.
#include "base/random.h"
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::prompt;
using Rows = std::vector<std::string>;

namespace {

RadixCache::Config cache(std::int64_t slots) { return {.tokens = 1000, .state_slots = slots}; }

// A sequence that brings `tokens` of the prompt and the state of their end.
RadixCache::Node bring(RadixCache& c, std::uint64_t id, std::int64_t tokens, std::int64_t begin = 0) {
  c.take(tokens - begin);
  REQUIRE(c.make_state_room(1));
  c.take_states(1);
  const RadixCache::Node node = c.insert(prompt(id), tokens, {.begin = begin});
  if (!c.leave_state(node)) c.give_back_states(1);
  c.check_invariants();
  return node;
}

// extra_buffer under the overlap loop: its own state and two that are filled in turn.
SglangConfig stateful(std::int64_t slots = 1000, std::int64_t tokens = 100000) {
  SglangConfig c = config(tokens);
  c.cache.state_slots = slots;
  c.states = {.of_sequence = 3, .chunk = 64, .interval = 256, .in_turn = true};
  return c;
}

std::vector<std::uint64_t> ids(std::uint64_t first, int count) {
  std::vector<std::uint64_t> list;
  for (int i = 0; i < count; ++i) list.push_back(first + static_cast<std::uint64_t>(i));
  return list;
}

// A prompt of its own ids, served to its end; then the row that admits the next.
std::string after(Driver& d, const Driver::Ask& next) {
  d.drain();
  d.add(next);
  return d.pass();
}

}  // namespace

TEST_CASE("a prefix ends where a state is; the other layers reach further; a split leaves it below") {
  RadixCache c(cache(4));
  bring(c, 1, 100);
  CHECK(c.idle_states() == 1);
  CHECK(c.match(prompt(1), 100).tokens == 100);
  const RadixCache::Match shorter = c.match(prompt(1), 90);
  CHECK(shorter.tokens == 0);
  CHECK(shorter.full_tokens == 90);
  CHECK(c.match(prompt(1), 100).tokens == 100);  // the lower part of the split has it
  bring(c, 1, 90, 0);                            // its tokens are there already: free again
  CHECK(c.match(prompt(1), 95).tokens == 90);
  CHECK(c.evictable() == 100);
  CHECK(c.idle_states() == 2);
  c.check_invariants();
}

TEST_CASE("a state that is there already is not kept twice, and is the newest") {
  RadixCache c(cache(3));
  bring(c, 1, 50);
  bring(c, 2, 50);
  bring(c, 1, 50);
  CHECK(c.idle_states() == 2);
  CHECK(c.free_states() == 1);
  CHECK(c.make_state_room(2));
  CHECK(c.match(prompt(1), 50).tokens == 50);
  CHECK(c.match(prompt(2), 50).tokens == 0);
}

TEST_CASE("a look-up makes one state the newest, not those on the way to it") {
  RadixCache c(cache(3));
  bring(c, 1, 50);
  bring(c, 2, 50);
  bring(c, 1, 100, 50);
  CHECK(c.match(prompt(1), 100).tokens == 100);
  CHECK(c.make_state_room(1));  // that of 50 tokens, although the prefix of 100 was used
  CHECK(c.match(prompt(1), 60).tokens == 0);
  CHECK(c.match(prompt(2), 50).tokens == 50);
}

TEST_CASE("an inner node gives up its state and keeps its tokens, a leaf goes as a whole; locked ones stay") {
  RadixCache c(cache(2));
  bring(c, 1, 50);
  const RadixCache::Node leaf = bring(c, 1, 100, 50);
  c.lock(leaf);
  c.lock_state(leaf);
  CHECK(c.locked_states() == 1);
  CHECK(c.make_state_room(1));
  CHECK_FALSE(c.make_state_room(2));
  CHECK(c.match(prompt(1), 100).full_tokens == 100);
  CHECK(c.match(prompt(1), 60).tokens == 0);
  c.unlock_state(leaf);
  c.unlock(leaf);
  c.check_invariants();
  CHECK(c.make_state_room(2));
  CHECK(c.evictable() == 50 + 10);  // [50, 60) was split off by the look-up and has no state
  CHECK(c.idle_states() == 0);
  c.check_invariants();
}

TEST_CASE("tokens that are evicted take their state with them") {
  RadixCache c(cache(2));
  bring(c, 1, 400);
  bring(c, 2, 400);
  CHECK(c.make_room(500));
  CHECK(c.idle_states() == 1);
  CHECK(c.free_states() == 1);
  CHECK(c.match(prompt(1), 400).tokens == 0);
  CHECK(c.match(prompt(2), 400).tokens == 400);
}

TEST_CASE("extra_buffer: a prompt leaves its last whole chunk of 64; what is shorter leaves nothing") {
  Driver d(stateful());
  d.add({200, 4, ids(1, 13)});
  CHECK(d.pass() == "extend 0:200@0");
  CHECK(after(d, {200, 4, ids(1, 13)}) == "extend 1:8@192");
  CHECK(after(d, {60, 4, ids(100, 4)}) == "extend 2:60@0");
  CHECK(after(d, {60, 4, ids(100, 4)}) == "extend 3:60@0");
  // Without states the same prompt is found but for its last token.
  Driver plain(config());
  plain.add({200, 4, ids(1, 13)});
  CHECK(after(plain, {200, 4, ids(1, 13)}) == "extend 1:1@199");
}

TEST_CASE(
    "extra_buffer: chunks count from where they begin, and the last one is too short to leave a state") {
  SglangConfig c = stateful();
  c.chunked_prefill_size = 100;
  Driver d(c);
  d.add({250, 4, ids(1, 16)});
  CHECK(d.passes(3) == Rows{"extend 0:100@0", "extend 0:100@100", "extend 0:50@200"});
  CHECK(after(d, {250, 4, ids(1, 16)}) == "extend 1:86@164");  // 100 + 64
}

TEST_CASE("extra_buffer: who ends leaves the last multiple of 256 that its decodes passed") {
  Driver d(stateful());
  d.add({.prompt = 200, .max_output = 100, .stream = 7});
  CHECK(d.pass() == "extend 0:200@0");
  CHECK(after(d, {.prompt = 320, .max_output = 4, .stream = 7}) == "extend 1:64@256");
  // One that does not pass it leaves its prompt's chunk only.
  Driver e(stateful());
  e.add({.prompt = 200, .max_output = 40, .stream = 7});
  CHECK(after(e, {.prompt = 235, .max_output = 4, .stream = 7}) == "extend 1:43@192");
}

TEST_CASE(
    "extra_buffer: a prompt leaves its state where another one parts from it, so that a third finds it") {
  Driver d(stateful());
  const auto asks = [&](std::uint64_t own) {
    std::vector<std::uint64_t> list = ids(1, 16);
    for (const std::uint64_t id : ids(own, 16)) list.push_back(id);
    return Driver::Ask{512, 4, list};
  };
  d.add(asks(100));
  CHECK(d.pass() == "extend 0:512@0");
  CHECK(after(d, asks(200)) == "extend 1:512@0");    // 256 tokens are there, and no state in them
  CHECK(after(d, asks(300)) == "extend 2:256@256");  // the second left it at 256, not at its end
}

TEST_CASE("no_buffer: the state of the end is left, and serves only who goes on behind it") {
  SglangConfig c = config();
  c.overlap = false;
  c.cache.state_slots = 100;
  c.states.of_sequence = 1;
  Driver d(c);
  d.add({.prompt = 200, .max_output = 4, .stream = 7});
  CHECK(d.pass() == "extend 0:200@0");
  CHECK(after(d, {.prompt = 200, .max_output = 1, .stream = 7}) == "extend 1:200@0");
  CHECK(after(d, {.prompt = 230, .max_output = 4, .stream = 7}) == "extend 2:27@203");
}

TEST_CASE(
    "slots: three for a sequence and one for what it left; a hit takes its copy before it is admitted") {
  Driver d(stateful(8));
  d.add({200, 50, ids(1, 13)});
  d.pass();
  CHECK(d.scheduler.cache().held_states() == 3);
  d.passes(2);
  CHECK(d.scheduler.cache().held_states() == 3);
  CHECK(d.scheduler.cache().locked_states() == 1);
  d.add({200, 50, ids(1, 13)});
  CHECK(d.until("extend").back() == "extend 1:8@192");
  CHECK(d.scheduler.cache().held_states() == 6);
  d.drain();
  CHECK(d.scheduler.cache().held_states() == 0);
  CHECK(d.scheduler.cache().locked_states() == 0);
  CHECK(d.scheduler.cache().free_states() + d.scheduler.cache().idle_states() == 8);
}

// Both pools run full, prompts part and go on, sequences are retracted: the driver checks after every pass
// that slots and tokens add up.
TEST_CASE("random worlds of both strategies: every request ends once, nothing is left over") {
  std::int64_t retracted = 0, gave_up = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    RandomStream random(seed, RandomPurpose::property_test);
    const auto draw = [&](std::int64_t low, std::int64_t high) {
      return low + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(high - low + 1)));
    };
    const bool in_turn = seed % 3 != 0;
    SglangConfig c = stateful(draw(20, 30), draw(900, 1500));
    c.context_length = 800;
    c.max_running_requests = 4;
    c.schedule_conservativeness = 0.1;
    c.chunked_prefill_size = draw(0, 1) == 0 ? 150 : 8192;
    if (!in_turn) {
      c.states = {.of_sequence = 1};
      c.overlap = false;
    }
    Driver d(c);
    std::size_t added = 0;
    for (int i = 0; i < 30; ++i) {
      const auto length = static_cast<std::int32_t>(draw(1, 500));
      const auto output = static_cast<std::int32_t>(draw(1, 280));
      const auto stream = static_cast<std::uint64_t>(draw(1, 5));
      if (d.add({.prompt = length, .max_output = output, .stream = stream})) ++added;
      for (std::int64_t passes = draw(0, 60); passes-- > 0 && d.scheduler.has_work();)
        retracted += d.pass().find("retract") != std::string::npos ? 1 : 0;
    }
    d.drain();
    CHECK(d.ended.size() + d.aborted.size() == added);
    const RadixCache& cache = d.scheduler.cache();
    CHECK(cache.held() == 0);
    CHECK(cache.held_states() == 0);
    CHECK(cache.locked_states() == 0);
    CHECK(cache.free_states() + cache.idle_states() == c.cache.state_slots);
    gave_up += cache.free_states() == 0 ? 0 : 1;
  }
  CHECK(retracted > 20);
  CHECK(gave_up > 0);
}
