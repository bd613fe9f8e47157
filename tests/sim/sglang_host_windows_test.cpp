// SGLang's HiCache beside a pool for layers with a sliding window: a second tier for windowed slots
// (mem_cache/unified_cache/components/swa.py of 0.5.23). § are those of ../shared/reference/sglang_0_5.md.
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::insert;
using sglang_test::prompt;

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
