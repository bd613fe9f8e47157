// Random traffic through SGLang's scheduler, one pass at a time, with the books of the tree, of the windowed
// pool and of host memory checked behind every pass (Driver::pass calls RadixCache::check_invariants).
#include <array>

#include "base/random.h"
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::Driver;

namespace {

struct Traffic {
  SglangConfig config;
  std::vector<Driver::Ask> asks;
};

// Prompts of three families that share a prefix of any length; a pool that holds a few of them.
Traffic traffic(RandomStream& r) {
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
  };
  Traffic t;
  t.config.cache.page_size = r.below(2) == 0 ? 1 : 16;
  t.config.cache.tokens = pick(90, 200) * 16;
  t.config.chunked_prefill_size = pick(4, 60) * 16;
  t.config.overlap = r.below(4) != 0;
  t.config.schedule_conservativeness = r.below(2) == 0 ? 1 : 0.02;
  t.config.max_running_requests = pick(2, 12);
  t.config.stretches = false;
  const std::array<Eviction, 4> evictions{Eviction::lru, Eviction::lfu, Eviction::slru, Eviction::priority};
  t.config.cache.eviction = evictions[r.below(4)];
  for (std::uint64_t i = 0, n = 30 + r.below(40); i < n; ++i) {
    Driver::Ask ask{static_cast<std::int32_t>(pick(1, 600)), static_cast<std::int32_t>(pick(1, 300))};
    ask.id_size = 32;
    const std::uint64_t ids = static_cast<std::uint64_t>(ask.prompt + 31) / 32;
    const std::uint64_t shared = r.below(ids + 1), family = r.below(3);
    for (std::uint64_t k = 0; k < ids; ++k)
      ask.ids.push_back(k < shared ? family * 1000 + k : (i + 10) * 1000 + k);
    t.asks.push_back(ask);
  }
  return t;
}

// Requests come in while others run; copies to host memory end some passes after their issue.
void play(const Traffic& t, RandomStream& r, std::int64_t& loads, std::int64_t& retracted) {
  Driver d(t.config);
  std::vector<std::uint64_t> copies;
  std::size_t next = 0;
  for (int pass = 0; next < t.asks.size() || d.scheduler.has_work(); ++pass) {
    REQUIRE(pass < 60000);
    while (next < t.asks.size() && r.below(8) == 0) REQUIRE(d.add(t.asks[next++]));
    const std::string row = d.pass();
    retracted += row.find("retract") != std::string::npos ? 1 : 0;
    for (const TransferWork& w : d.scheduler.take_transfers()) copies.push_back(w.id);
    while (!copies.empty() && r.below(3) == 0) {
      d.scheduler.on_transfer(copies.front());
      copies.erase(copies.begin());
    }
    d.scheduler.cache().check_invariants();
  }
  for (const std::uint64_t id : copies) d.scheduler.on_transfer(id);
  REQUIRE(d.aborted.empty());
  REQUIRE(d.ended.size() == t.asks.size());
  std::int64_t tokens = 0;
  for (const Driver::Ended& e : d.ended) {
    REQUIRE(e.outputs == t.asks[e.request].max_output);
    tokens += e.outputs;
  }
  const RadixCache& c = d.scheduler.cache();
  REQUIRE(c.held() == 0);
  REQUIRE(c.protected_tokens() == 0);
  REQUIRE(c.windowed_held() == 0);
  REQUIRE(c.windowed_protected() == 0);
  REQUIRE(d.tokens >= tokens);  // first tokens after a retraction are counted again
  loads += static_cast<std::int64_t>(d.scheduler.offload_counters().loads);
}

// A window and its pool: tenths of the other one's tokens, which are returned.
std::int64_t draw_window(Traffic& t, RandomStream& r) {
  RadixCache::Config& c = t.config.cache;
  const std::array<std::int64_t, 4> windows{5, 31, 127, 300};
  c.window = windows[r.below(4)];
  const std::int64_t least = 3 * (c.window + 160) + t.config.chunked_prefill_size;
  const auto share = static_cast<std::int64_t>(3 + r.below(8));
  c.windowed_tokens = std::max(least, c.tokens * share / 10) / 16 * 16;
  return share;
}

}  // namespace

TEST_CASE("§4 SWA: both pools add up behind every pass of random traffic") {
  std::int64_t loads = 0, retracted = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    RandomStream r(seed, RandomPurpose::property_test, 21);
    Traffic t = traffic(r);
    RadixCache::Config& c = t.config.cache;
    draw_window(t, r);
    CAPTURE(seed, c.window, c.windowed_tokens);
    play(t, r, loads, retracted);
  }
  CHECK(retracted > 20);
}

TEST_CASE("§4 HiCache: device and host add up behind every pass of random traffic") {
  std::int64_t loads = 0, retracted = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    RandomStream r(seed, RandomPurpose::property_test, 22);
    Traffic t = traffic(r);
    RadixCache::Config& c = t.config.cache;
    c.host_tokens = static_cast<std::int64_t>(5 + r.below(200)) * 16;
    c.backup_at_hits = static_cast<std::int64_t>(r.below(3));
    CAPTURE(seed, c.host_tokens, c.backup_at_hits);
    play(t, r, loads, retracted);
  }
  CHECK(loads > 100);
  CHECK(retracted > 20);
}

TEST_CASE("§4 HiCache, SWA: both pools and both tiers add up behind every pass of random traffic") {
  std::int64_t loads = 0, retracted = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    RandomStream r(seed, RandomPurpose::property_test, 23);
    Traffic t = traffic(r);
    RadixCache::Config& c = t.config.cache;
    const std::int64_t share = draw_window(t, r);
    c.host_tokens = static_cast<std::int64_t>(5 + r.below(200)) * 16;
    c.host_windowed_tokens = c.host_tokens * share / 10 / 16 * 16;
    c.backup_at_hits = 1 + static_cast<std::int64_t>(r.below(2));
    t.config.window_parts = 1;
    CAPTURE(seed, c.window, c.windowed_tokens, c.host_tokens, c.host_windowed_tokens);
    play(t, r, loads, retracted);
  }
  CHECK(loads > 100);
  CHECK(retracted > 20);
}
