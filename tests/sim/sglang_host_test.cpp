// SGLang's HiCache: what is copied to host memory, what comes back, and what it costs. § are those of
// ../shared/reference/sglang_0_5.md; facts from unified_radix_cache.py and unified_tree_core.py of the wheel.
#include "catch.h"
#include "conservation.h"
#include "sglang_driver.h"
#include "world.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::insert;
using sglang_test::prompt;
using Rows = std::vector<std::string>;

namespace {

RadixCache::Config tiered(std::int64_t tokens, std::int64_t host, std::int64_t at_hits = 1) {
  return {.tokens = tokens, .host_tokens = host, .backup_at_hits = at_hits};
}

// Copies are over at once.
std::int64_t copied(RadixCache& c) {
  std::int64_t tokens = 0;
  for (const RadixCache::Backup& b : c.take_backups()) {
    tokens += b.end - b.begin;
    c.end_backup(b);
  }
  c.check_invariants();
  return tokens;
}

}  // namespace

TEST_CASE(
    "§4 HiCache write_through: a node is copied at its first insertion and locked until the copy is over") {
  RadixCache c(tiered(100, 200));
  insert(c, 1, 40);
  CHECK(c.protected_tokens() == 40);
  CHECK_FALSE(c.make_room(61));
  CHECK(copied(c) == 40);
  CHECK(c.host_used() == 40);
  CHECK(c.make_room(61));
}

TEST_CASE("§4 HiCache write_through_selective: at the second insertion, ancestors first") {
  RadixCache c(tiered(100, 200, 2));
  insert(c, 1, 40);
  CHECK(copied(c) == 0);
  insert(c, 1, 40);
  CHECK(copied(c) == 40);
}

TEST_CASE(
    "§4 HiCache: who is evicted on the device stays in host memory, is found there and comes back whole") {
  RadixCache c(tiered(100, 200));
  insert(c, 1, 40);
  copied(c);
  CHECK(c.make_room(100));
  const RadixCache::Match hit = c.match(prompt(1), 40);
  CHECK(hit.tokens == 0);
  CHECK(hit.full_tokens == 40);
  CHECK_FALSE(c.load(hit.full_node, 41).any());  // below the threshold
  CHECK(c.load(hit.full_node, 10).full == 40);
  CHECK(c.available() == 60);
  CHECK(c.match(prompt(1), 40).tokens == 40);
  CHECK(c.host_used() == 40);  // the copy stays
  c.check_invariants();
  c.make_room(100);
  c.take(100);
  CHECK_FALSE(c.load(c.match(prompt(1), 40).full_node, 10).any());  // no room
  c.check_invariants();
}

TEST_CASE(
    "§4 HiCache: a full tier drops its least recently used leaves, and what is on the device keeps its "
    "copy") {
  RadixCache c(tiered(200, 100));
  for (const std::uint64_t id : {1, 2}) {
    insert(c, id, 40);
    copied(c);
  }
  c.make_room(200);
  c.match(prompt(1), 40);
  insert(c, 3, 40);
  CHECK(copied(c) == 40);  // 2 had to go
  CHECK(c.host_dropped_in_total() == 40);
  CHECK(c.match(prompt(2), 40).full_tokens == 0);
  CHECK(c.match(prompt(1), 40).full_tokens == 40);
  insert(c, 4, 50);
  CHECK(copied(c) == 50);  // 1 had to go
  insert(c, 5, 10);
  CHECK(copied(c) == 10);
  insert(c, 6, 10);
  CHECK(copied(c) == 0);  // all that is left of the tier belongs to nodes on the device
}

TEST_CASE("§4 HiCache write_back: copied when evicted, and the eviction waits") {
  RadixCache c(tiered(100, 200, 0));
  insert(c, 1, 40);
  CHECK(copied(c) == 0);
  CHECK(c.take_blocking_backups() == 0);
  c.make_room(100);
  CHECK(c.take_blocking_backups() == 40);
  CHECK(c.match(prompt(1), 40).full_tokens == 40);
  c.check_invariants();
}

TEST_CASE("§4 HiCache: a sequence that computed what only host memory had leaves its slots to the tree") {
  RadixCache c(tiered(100, 200));
  insert(c, 1, 40);
  copied(c);
  c.make_room(100);
  insert(c, 1, 60);
  CHECK(c.held() == 0);
  CHECK(c.match(prompt(1), 60).tokens == 60);
  CHECK(copied(c) == 20);  // the front has its copy
}

TEST_CASE("§4 HiCache: an admitted request loads what host memory holds behind the device's prefix") {
  SglangConfig c = config(600);
  c.cache.host_tokens = 1200;
  Driver d(c);
  d.add({300, 4, {1}, 300});
  d.drain();
  d.finish_copies();
  d.add({500, 4, {2}, 500});  // pushes it off the device
  d.drain();
  d.finish_copies();
  d.add({300, 4, {1}, 300});
  CHECK(d.pass() == "extend 2:1@299");
  CHECK(d.hit_tokens == 299);
  CHECK(d.last_loads == 299);
  CHECK(d.scheduler.offload_counters().loads == 1);
  d.drain();
  d.add({9, 4, {1}, 300});
  d.finish_copies();
  d.drain();
  CHECK(d.scheduler.cache().held() == 0);
}

TEST_CASE("§4 HiCache: the step that loads does not end before its copy, and a slower link makes it longer") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 3; ++i) {
    requests.push_back(world::request(i, 2.0 * static_cast<double>(i), 3000, 4));
    requests.back().hash_ids = {i == 1 ? 8u : 7u};
    requests.back().hash_block_size = 3000;
  }
  double before = 0;
  for (const double tokens_per_s : {1e9, 3e4, 1e4}) {
    world::World w;
    w.scheduler = "sglang";
    w.config.block_size = 1;
    w.config.num_gpu_blocks = 5000;
    w.config.max_model_len = 4096;
    w.config.offload.blocks = 20000;
    w.host_blocks_per_s = tokens_per_s;
    world::Records records;
    w.sink = &records;
    const RunResult r = world::run(w, requests);
    CHECK(r.offload.loads == 1);
    CHECK(records.all[2].cached_tokens == 2999);
    const double ttft = records.all[2].ttft.seconds();
    if (tokens_per_s < 1e6) CHECK(ttft >= 2999 / tokens_per_s);
    CHECK(ttft > before);
    before = ttft;
    CHECK(records.all[1].ttft.seconds() < 0.2);
  }
}

// The network's layers are copied with the model's (`_build_hicache_draft_plan`): what comes back serves
// both. Its tree is keyed by pairs of tokens, one fewer than the tokens; the last of the prompt is computed.
TEST_CASE(
    "§4 §6 HiCache beside drafts: what host memory holds comes back, one token shorter with a network") {
  for (const bool network : {true, false}) {
    CAPTURE(network);
    SglangConfig c = config(620);
    c.cache.host_tokens = 1200;
    c.speculation = {.tokens = 3, .lookahead = network ? 3 : 0, .drops_last_hit = network};
    Driver d(c);
    d.add({300, 4, {1}, 300});
    d.drain();
    d.finish_copies();
    d.add({500, 4, {2}, 500});  // pushes it off the device
    d.drain();
    d.finish_copies();
    d.add({300, 4, {1}, 300});
    CHECK(d.pass() == (network ? "extend 2:2@298" : "extend 2:1@299"));
    CHECK(d.last_loads == (network ? 298 : 299));
    d.drain();
    d.finish_copies();
    CHECK(d.scheduler.cache().held() == 0);
    CHECK(d.tokens == 12);
  }
}
