// SGLang's HiCache beside layers that keep a state (mem_cache/unified_cache/components/mamba.py of 0.5.23): a
// tier for states beside that for tokens.
#include "base/random.h"
#include "catch.h"
#include "sglang_driver.h"
#include "sglang_host_worlds.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::prompt;
using sglang_test::run_world;

namespace {

RadixCache::Config tiers(std::int64_t slots, std::int64_t host_states, std::int64_t at_hits = 1) {
  return {.tokens = 200,
          .state_slots = slots,
          .host_tokens = 400,
          .host_states = host_states,
          .backup_at_hits = at_hits};
}

// A sequence that brings `tokens` of the prompt and the state of their end.
void bring(RadixCache& c, std::uint64_t id, std::int64_t tokens, std::int64_t begin = 0) {
  REQUIRE(c.make_room(tokens - begin));
  c.take(tokens - begin);
  REQUIRE(c.make_state_room(1));
  c.take_states(1);
  if (!c.leave_state(c.insert(prompt(id), tokens, {.begin = begin}))) c.give_back_states(1);
  c.check_invariants();
}

struct Copied {
  std::int64_t full = 0, states = 0;
};
Copied copied(RadixCache& c) {
  Copied all;
  for (const RadixCache::Backup& b : c.take_backups()) {
    all.full += b.full;
    all.states += b.states;
    c.end_backup(b);
  }
  c.check_invariants();
  return all;
}

SglangConfig stateful(std::int64_t slots = 60) {
  SglangConfig c = config(3000);
  c.cache.state_slots = slots;
  c.cache.host_tokens = 20000;
  c.cache.host_states = 100;
  c.state_pages = 1000;
  c.states = {.of_sequence = 3, .chunk = 64, .interval = 256, .in_turn = true};
  return c;
}

}  // namespace

TEST_CASE("a node is copied with its state, locked meanwhile, and a state that comes later is copied alone") {
  RadixCache c(tiers(6, 6));
  bring(c, 1, 40);
  CHECK(c.locked_states() == 1);
  const Copied first = copied(c);
  CHECK((first.full == 40 && first.states == 1));
  CHECK(c.locked_states() == 0);
  CHECK(c.host_states_used() == 1);
  CHECK(c.match(prompt(1), 30).tokens == 0);  // split: the state is the lower part's, on the host too
  bring(c, 1, 30);
  const Copied later = copied(c);
  CHECK((later.full == 0 && later.states == 1));
  CHECK(c.host_states_used() == 2);
}

TEST_CASE("what left the device is found where its state is on either side, and both come back") {
  RadixCache c(tiers(6, 6));
  bring(c, 1, 40);
  copied(c);
  REQUIRE(c.make_room(200));
  CHECK(c.free_states() == 6);
  const RadixCache::Match hit = c.match(prompt(1), 40);
  CHECK(hit.tokens == 0);
  CHECK(hit.best_tokens == 40);
  CHECK(hit.on_host == 40);
  CHECK(hit.state_on_host);
  const RadixCache::Loaded loaded = c.load(hit.best_node, 10);
  CHECK((loaded.full == 40 && loaded.states == 1));
  c.check_invariants();
  CHECK(c.match(prompt(1), 40).tokens == 40);
  CHECK(c.idle_states() == 1);
}

TEST_CASE("a state that an inner node gave up comes back alone, however few tokens that serves") {
  RadixCache c(tiers(2, 6));
  bring(c, 1, 20);
  copied(c);
  bring(c, 1, 40, 20);
  copied(c);
  REQUIRE(c.make_state_room(1));  // the inner node's, which is older
  const RadixCache::Match hit = c.match(prompt(1), 20);
  CHECK((hit.tokens == 0 && hit.best_tokens == 20 && hit.on_host == 0 && hit.state_on_host));
  const RadixCache::Loaded loaded = c.load(hit.best_node, 10);
  CHECK((loaded.full == 0 && loaded.states == 1));
  c.check_invariants();
  CHECK(c.match(prompt(1), 20).tokens == 20);
}

TEST_CASE("a tier of few states drops those that left the device first; tokens alone serve nobody") {
  RadixCache c(tiers(8, 2));
  for (std::uint64_t id = 1; id <= 3; ++id) {
    bring(c, id, 30);
    copied(c);
    REQUIRE(c.make_room(200));
    c.check_invariants();
  }
  CHECK(c.host_states_used() == 2);
  CHECK(c.host_states_dropped_in_total() == 1);
  CHECK(c.host_used() == 60);  // a leaf, gone with it
  CHECK(c.match(prompt(1), 30).best_tokens == 0);
  CHECK(c.match(prompt(3), 30).best_tokens == 30);
}

TEST_CASE("write_back copies a state before the device gives it up, and waits for it") {
  RadixCache c(tiers(2, 6, 0));
  bring(c, 1, 20);
  bring(c, 1, 40, 20);
  CHECK(c.take_backups().empty());
  CHECK(c.take_blocking_states() == 0);
  REQUIRE(c.make_state_room(1));
  CHECK(c.take_blocking_states() == 1);
  CHECK(c.take_blocking_backups() == 20);
  CHECK(c.match(prompt(1), 20).state_on_host);
  c.check_invariants();
}

TEST_CASE("an admitted request loads tokens and state, the state twice: for the node and for itself") {
  Driver d(stateful());
  d.add({.prompt = 200, .max_output = 4, .stream = 7});
  d.drain();
  d.finish_copies();
  for (int i = 0; i < 9; ++i) {  // fills the device, so that the session's leaves it
    d.add({.prompt = 320, .max_output = 2});
    d.drain();
    d.finish_copies();
  }
  d.add({.prompt = 250, .max_output = 4, .stream = 7});
  CHECK(d.pass() == "extend 10:58@192");
  CHECK(d.last_loads == 192 + 2 * 1000);
}

TEST_CASE("random use with every write policy: everybody ends, nothing is lost or left over") {
  std::uint64_t loads = 0, blocking = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 42);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return sglang_test::pick(r, low, high); };
    SglangConfig c = stateful(pick(20, 30));
    c.cache.tokens = pick(900, 1500);
    c.context_length = 800;
    c.cache.host_tokens = pick(200, 4000);
    c.cache.host_states = pick(1, 60);
    c.cache.backup_at_hits = pick(0, 2);
    c.max_running_requests = 4;
    c.schedule_conservativeness = 0.1;
    c.chunked_prefill_size = pick(0, 1) == 0 ? 150 : 8192;
    if (pick(0, 2) == 0) {
      c.states = {.of_sequence = 1};
      c.overlap = false;
    } else if (pick(0, 1) == 0) {
      c.speculation = {.tokens = 2, .lookahead = 2};
    }
    Driver d(c);
    run_world(d, r, 500);
    const RadixCache& cache = d.scheduler.cache();
    REQUIRE(cache.held() == 0);
    REQUIRE(cache.held_states() == 0);
    REQUIRE(cache.locked_states() == 0);
    REQUIRE(cache.protected_tokens() == 0);
    const OffloadCounters counted = d.scheduler.offload_counters();
    loads += counted.loads;
    blocking += c.cache.backup_at_hits == 0 ? counted.stored : 0;
  }
  CHECK(loads > 50);
  CHECK(blocking > 100);
}
