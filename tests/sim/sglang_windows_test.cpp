// SGLang's pool for layers with a sliding window: what is kept, found, given up and admitted. § are those of
// ../shared/reference/sglang_0_5.md; facts from components/swa.py and prefill_budget.py of the 0.5.23 wheel.
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::prompt;
using Rows = std::vector<std::string>;

namespace {

RadixCache::Config cache(std::int64_t window, std::int64_t windowed, std::int32_t page = 1) {
  return {.tokens = 1000 * page, .page_size = page, .window = window, .windowed_tokens = windowed};
}

SglangConfig windowed(std::int64_t window, std::int64_t windowed_tokens) {
  SglangConfig c = config(100000);
  c.cache.window = window;
  c.cache.windowed_tokens = windowed_tokens;
  return c;
}

}  // namespace

TEST_CASE("§4 SWA: a prefix is found up to where a window of it is live; the other layers reach further") {
  RadixCache c(cache(10, 300));
  c.take(100);
  c.give_back_windowed(80);  // the sequence slid to 80
  c.insert(prompt(1), 100, {.window_begin = 80});
  CHECK(c.windowed_evictable() == 20);
  CHECK(c.match(prompt(1), 100).tokens == 100);
  CHECK(c.match(prompt(1), 90).tokens == 90);  // 80 to 90
  const RadixCache::Match partly = c.match(prompt(1), 89);
  CHECK(partly.tokens == 0);
  CHECK(partly.full_tokens == 89);
  c.check_invariants();
}

TEST_CASE("§4 SWA: what is live from the root on counts, however short") {
  RadixCache c(cache(10, 300));
  c.take(7);
  c.insert(prompt(1), 7, {});
  CHECK(c.match(prompt(1), 7).tokens == 7);
  CHECK(c.match(prompt(1), 4).tokens == 4);
}

TEST_CASE("§4 SWA: a lock holds the last window only, the rest can be given up; the last window is a node") {
  RadixCache c(cache(10, 300));
  c.take(100);
  const RadixCache::Node node = c.insert(prompt(1), 100, {});
  c.lock(node);
  const std::int64_t begin = c.lock_window(node);
  CHECK(begin == 90);
  CHECK(c.windowed_protected() == 10);
  CHECK(c.protected_tokens() == 100);
  CHECK(c.make_room(280));  // of 300 windowed slots 100 are cached: 90 of them go, the others' stay
  CHECK(c.windowed_evictable() == 0);
  CHECK(c.protected_tokens() == 100);
  CHECK(c.match(prompt(1), 100).tokens == 100);
  CHECK(c.match(prompt(1), 50).tokens == 0);
  CHECK_FALSE(c.make_room(291));
  c.unlock_window(node, begin);
  c.unlock(node);
  CHECK(c.make_room(291));  // the leaf goes as a whole
  CHECK(c.evictable() == 90);
  c.check_invariants();
}

TEST_CASE("§4 SWA: a sequence that computed again what lost its window lends it its own") {
  RadixCache c(cache(10, 300));
  c.take(100);
  c.insert(prompt(1), 100, {});
  c.make_room(300);  // the leaf, which is the last window, and the windowed slots before it
  CHECK(c.evictable() == 90);
  c.take(100);
  c.give_back_windowed(50);
  c.insert(prompt(1), 100, {.window_begin = 50});
  c.take(60);
  c.give_back_windowed(30);
  c.insert(prompt(1), 60, {.window_begin = 30});  // [30, 50) had none, [50, 60) has
  CHECK(c.windowed_evictable() == 70);
  CHECK(c.evictable() == 100);
  CHECK(c.held() == 0);
  CHECK(c.windowed_held() == 0);
  CHECK(c.match(prompt(1), 40).tokens == 40);
  c.check_invariants();
}

TEST_CASE("§4 SWA: the least recently used window goes first") {
  RadixCache c(cache(10, 100));
  for (const std::uint64_t id : {1, 2, 3}) {
    c.take(20);
    c.insert(prompt(id), 20, {});
  }
  c.match(prompt(1), 20);
  CHECK(c.make_room(60));
  CHECK(c.match(prompt(2), 20).tokens == 0);
  CHECK(c.match(prompt(1), 20).tokens == 20);
  CHECK(c.match(prompt(3), 20).tokens == 20);
}

TEST_CASE("§4 SWA: admission by the smaller pool: min(ext + max_new, w) + max(ext - w, 0) + page, strictly") {
  // Each needs 30 + 40 + 1; what the one before reserved in the same batch counts.
  Driver tight(windowed(100, 142)), enough(windowed(100, 143));
  for (Driver* d : {&tight, &enough}) {
    d->add({30, 40});
    d->add({30, 40});
  }
  CHECK(tight.pass() == "extend 0:30@0");
  CHECK(enough.pass() == "extend 0:30@0 1:30@0");
}

TEST_CASE("§4 SWA: a prompt that never fits the windowed pool runs in chunks that do") {
  Driver d(windowed(100, 300));
  d.add({500, 50});
  // 400 + 100 + 1 are not below 300: 300 - (50 + 1) at once. Behind each chunk 100 tokens stay locked.
  CHECK(d.passes(4) == Rows{"extend 0:249@0", "extend 0:199@249", "extend 0:52@448", "decode 1 ctx 500"});
  d.drain();
  CHECK(d.scheduler.cache().windowed_held() == 0);
}

TEST_CASE("§4 SWA: decoding requests give up what left the window, every 128 tokens, one step late") {
  Driver d(windowed(100, 3000));
  d.add({100, 400});
  d.passes(2);
  const auto slots = [&] {
    const RadixCache& c = d.scheduler.cache();
    return c.windowed_held() + c.windowed_evictable() + c.windowed_protected();
  };
  CHECK(slots() == 101);
  // The window begins 128 behind when 100 + |out| - 1 - 100 = 128 are known: |out| = 129.
  std::int64_t most = 0;
  while (slots() >= most) {
    most = slots();
    d.pass();
  }
  // Prefill pass 0, decode j in pass j knows j - 1 outputs: in pass 130 it knows 129.
  CHECK(most == 100 + 129);
  // To 228 - 100 = 128; the prompt's 100 tokens are the tree's, whose slots stay.
  CHECK(slots() == 100 + 130 - 28);
  d.drain();
  CHECK(d.scheduler.cache().windowed_held() == 0);
}

TEST_CASE("§4 SWA: no latch: admission is tried in every pass, although nobody left the running batch") {
  Driver d(windowed(100, 131));
  d.add({30, 40});
  d.pass();
  d.add({60, 40});  // 100 + 1 are not below 131 - 30
  d.add({5, 2});
  CHECK(d.pass() == "decode 1 ctx 30");
  CHECK(d.scheduler.batch_is_full());
  d.scheduler.drop_departed(SequenceId(1));  // it waited
  CHECK(d.pass() == "extend 2:5@0");
}

TEST_CASE("§4 SWA: where the windowed cache ends before the other one, the next insertion ends there") {
  Driver d(windowed(50, 3000));
  Driver::Ask ask{300, 4, {7}, 300};
  d.add(ask);
  d.drain();
  CHECK(d.scheduler.cache().windowed_evictable() < 300);  // the front slid away with its prompt
  Driver::Ask longer{400, 4, {7}, 300};
  d.add(longer);
  CHECK(d.pass() == "extend 1:100@300");
  d.drain();
  Driver::Ask shorter{201, 4, {7}, 300};
  d.add(shorter);
  CHECK(d.pass() == "extend 2:201@0");  // 200 tokens are cached, no window of them
  d.drain();
  d.add(shorter);
  CHECK(d.pass() == "extend 3:1@200");  // now there is one
}
