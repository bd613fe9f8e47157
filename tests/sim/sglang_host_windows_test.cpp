// SGLang's HiCache beside a pool for layers with a sliding window: a second tier for windowed slots
// (mem_cache/unified_cache/components/swa.py of 0.5.23). § are those of ../shared/reference/sglang_0_5.md.
#include "base/random.h"
#include "catch.h"
#include "sglang_driver.h"
#include "sglang_host_worlds.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::insert;
using sglang_test::prompt;
using sglang_test::run_world;

namespace {

// A window of 10 tokens, and as many windowed slots as one asks for.
RadixCache::Config tiers(std::int64_t tokens, std::int64_t windowed, std::int64_t host,
                         std::int64_t host_windowed) {
  return {.tokens = tokens,
          .window = 10,
          .windowed_tokens = windowed,
          .host_tokens = host,
          .host_windowed_tokens = host_windowed};
}

struct Copied {
  std::int64_t full = 0, windowed = 0;
};
// Copies are over at once.
Copied copied(RadixCache& c) {
  Copied all;
  for (const RadixCache::Backup& b : c.take_backups()) {
    all.full += b.full;
    all.windowed += b.windowed;
    c.end_backup(b);
  }
  c.check_invariants();
  return all;
}

}  // namespace

TEST_CASE("§4 HiCache, SWA: a node is copied with its windowed slots, and locked in both pools meanwhile") {
  RadixCache c(tiers(100, 100, 200, 200));
  insert(c, 1, 40);
  CHECK(c.protected_tokens() == 40);
  CHECK(c.windowed_protected() >= 10);
  const Copied all = copied(c);
  CHECK(all.full == 40);
  CHECK(all.windowed == 40);
  CHECK(c.host_used() == 40);
  CHECK(c.host_windowed_used() == 40);
  CHECK(c.windowed_protected() == 0);
}

TEST_CASE("§4 HiCache, SWA: who left the device comes back with the window before its end, no more") {
  RadixCache c(tiers(100, 100, 200, 200));
  insert(c, 1, 40);
  copied(c);
  CHECK(c.make_room(100));
  const RadixCache::Match hit = c.match(prompt(1), 40);
  CHECK(hit.tokens == 0);
  CHECK(hit.best_tokens == 40);
  CHECK(hit.on_host == 40);
  // An insertion leaves its last window as a node of its own (`_maybe_split_leaf_for_swa_lock`).
  CHECK(hit.windowed_on_host == 10);
  const RadixCache::Loaded loaded = c.load(hit.best_node, 10);
  CHECK(loaded.full == 40);
  CHECK(loaded.windowed == 10);
  c.check_invariants();
  CHECK(c.match(prompt(1), 40).tokens == 40);
  CHECK(c.windowed_evictable() == 10);
  CHECK(c.windowed_available() == 90);
  CHECK(c.host_windowed_used() == 40);  // the copies stay
}

// The nodes of 1 are [0, 30), [30, 40), [40, 50), [50, 60); the first two give their windowed slots up for 2.
// The other layers' slots are there still: only the window crosses the link, however short it is.
TEST_CASE("§4 HiCache, SWA: a window that the device gave up comes back alone") {
  RadixCache c(tiers(200, 65, 400, 400));
  insert(c, 1, 40);
  insert(c, 1, 60, 40);
  CHECK(copied(c).windowed == 60);
  insert(c, 2, 40);
  copied(c);
  const RadixCache::Match hit = c.match(prompt(1), 40);
  CHECK(hit.tokens == 0);
  CHECK(hit.full_tokens == 40);
  CHECK(hit.best_tokens == 40);
  CHECK(hit.on_host == 0);
  CHECK(hit.windowed_on_host == 10);
  const RadixCache::Loaded loaded = c.load(hit.best_node, 10);
  CHECK(loaded.full == 0);
  CHECK(loaded.windowed == 10);
  c.check_invariants();
  CHECK(c.match(prompt(1), 40).tokens == 40);
}

// `drive_host_eviction`: inner nodes lose their windowed copies alone, those first that left the device
// first.
TEST_CASE("§4 HiCache, SWA: a small tier for windows drops those that left the device first") {
  RadixCache c(tiers(200, 65, 400, 65));
  insert(c, 1, 40);
  insert(c, 1, 60, 40);
  CHECK(copied(c).windowed == 60);
  insert(c, 2, 40);
  CHECK(copied(c).windowed == 40);
  CHECK(c.host_windowed_used() == 60);
  CHECK(c.host_used() == 100);
  const RadixCache::Match hit = c.match(prompt(1), 40);
  CHECK(hit.full_tokens == 40);
  CHECK(hit.best_tokens == 0);
  CHECK(c.match(prompt(1), 60).tokens == 60);  // its last window is on the device
  c.check_invariants();
}

TEST_CASE("§4 HiCache, SWA: an admitted request loads what it needs of both, in parts of the layers") {
  SglangConfig c = config(600);
  c.cache.window = 99;
  c.cache.windowed_tokens = 600;
  c.cache.host_tokens = 1200;
  c.cache.host_windowed_tokens = 1200;
  c.full_parts = 1;
  c.window_parts = 5;
  Driver d(c);
  d.add({300, 4, {1}, 300});
  d.drain();
  d.finish_copies();
  d.add({500, 4, {2}, 500});  // pushes it off the device
  d.drain();
  d.finish_copies();
  d.add({300, 4, {1}, 300});
  CHECK(d.pass() == "extend 2:1@299");
  // 299 tokens of one part of the layers; of five the window, as the nodes have it.
  CHECK((d.last_loads - 299) % 5 == 0);
  CHECK(d.last_loads >= 299 + 5 * 99);
  CHECK(d.last_loads < 299 * 6);
  d.drain();
  d.finish_copies();
  CHECK(d.scheduler.cache().held() == 0);
  CHECK(d.scheduler.cache().windowed_held() == 0);
}

TEST_CASE("§4 HiCache, SWA: what was copied is there or was dropped, of both tiers") {
  SglangConfig c = config(600);
  c.cache.window = 99;
  c.cache.windowed_tokens = 600;
  c.cache.host_tokens = 700;
  c.cache.host_windowed_tokens = 350;
  c.full_parts = 1;
  c.window_parts = 5;
  Driver d(c);
  for (std::uint64_t content = 1; content <= 8; ++content) {
    d.add({300, 4, {content}, 300});
    d.drain();
    for (const TransferWork& w : d.scheduler.take_transfers()) d.scheduler.on_transfer(w.id);
    const OffloadCounters counted = d.scheduler.offload_counters();
    CAPTURE(content);
    CHECK(static_cast<std::int64_t>(counted.stored - counted.dropped) == counted.used);
  }
  const OffloadCounters all = d.scheduler.offload_counters();
  CHECK(all.dropped > static_cast<std::uint64_t>(d.scheduler.cache().host_dropped_in_total()));
}

// `_evict_device_next_node` of swa.py: the whole window is copied before the inner node gives its slots up.
TEST_CASE("§4 HiCache, SWA: write_back copies a window before the device gives it up, and waits for it") {
  for (const std::int64_t room : {100, 0}) {
    CAPTURE(room);
    RadixCache::Config how = tiers(200, 60, 200, room);
    how.backup_at_hits = 0;
    RadixCache c(how);
    insert(c, 1, 20);
    insert(c, 1, 40, 20);  // an inner node of 20 and its leaf
    CHECK(c.take_backups().empty());
    CHECK(c.take_blocking_windows() == 0);
    insert(c, 2, 40);  // 20 windowed slots are missing
    if (room > 0) {
      CHECK(c.take_blocking_windows() >= 20);
      CHECK(c.take_blocking_backups() >= 20);
      CHECK(c.host_windowed_used() >= 20);
    } else {
      CHECK(c.host_used() == 0);  // no room for windows: nothing is copied, and the device gives them up
    }
    c.check_invariants();
  }
}

TEST_CASE("§4 HiCache, SWA: random use with every write policy, and drafts: nothing is lost or left over") {
  std::uint64_t loads = 0, blocking = 0, drafted = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 41);
    const auto pick = [&](std::int64_t low, std::int64_t high) { return sglang_test::pick(r, low, high); };
    SglangConfig c = config(pick(700, 1500));
    c.context_length = 600;
    c.cache.window = pick(10, 120);
    c.cache.windowed_tokens = pick(500, 900);
    c.cache.host_tokens = pick(200, 3000);
    c.cache.host_windowed_tokens = pick(100, 2000);
    c.cache.backup_at_hits = pick(0, 2);
    c.full_parts = pick(1, 2);
    c.window_parts = pick(1, 5);
    c.max_running_requests = 4;
    c.schedule_conservativeness = 0.2;
    c.chunked_prefill_size = pick(0, 1) == 0 ? 128 : 8192;
    if (pick(0, 1) == 0)
      c.speculation = {.tokens = 2, .lookahead = static_cast<std::int32_t>(2 * pick(0, 1))};
    Driver d(c);
    run_world(d, r, 350);
    const RadixCache& cache = d.scheduler.cache();
    REQUIRE(cache.held() == 0);
    REQUIRE(cache.windowed_held() == 0);
    REQUIRE(cache.protected_tokens() == 0);
    REQUIRE(cache.windowed_protected() == 0);
    const OffloadCounters counted = d.scheduler.offload_counters();
    loads += counted.loads;
    blocking += c.cache.backup_at_hits == 0 ? counted.stored : 0;
    drafted += d.scheduler.counters().speculation.verifications;
  }
  CHECK(loads > 50);
  CHECK(blocking > 100);
  CHECK(drafted > 1000);
}
