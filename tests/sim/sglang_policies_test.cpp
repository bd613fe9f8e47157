// SGLang's less usual queue policies and its delays of prefill (managers/schedule_policy.py,
// prefill_delayer.py and min_free_slots_delayer.py of 0.5.23), pass by pass.
#include <map>
#include <set>

#include "base/random.h"
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::one_at_a_time;
using Rows = std::vector<std::string>;

namespace {

// Whose prompt each pass computed.
std::vector<std::string> order_of(Driver& d, int passes) {
  std::vector<std::string> order;
  for (const std::string& row : d.passes(passes)) order.push_back(row.substr(0, row.find(':')));
  return order;
}

}  // namespace

TEST_CASE("§2.2 dfs-weight goes first where most of the queue ends, and to a node's own requests last") {
  Driver d(one_at_a_time(QueuePolicy::dfs_weight));
  d.add({64, 2, {1, 2, 3, 4}});  // b, the first child of the root
  d.add({64, 2, {5, 6, 7, 8}});  // a
  d.drain();
  d.add({90, 9});                          // 2: ends at the root
  d.add({96, 9, {1, 2, 3, 4, 20, 21}});    // 3: at b's end
  d.add({96, 9, {5, 6, 30, 31, 32, 33}});  // 4: in the middle of a
  d.add({96, 9, {5, 6, 7, 8, 40, 41}});    // 5: at a's end, below 4
  d.add({96, 9, {5, 6, 7, 8, 50, 51}});    // 6: as 5
  d.add({96, 9, {1, 2, 3, 4, 60, 61}});    // 7: as 3
  // Every attempt sorts what is left. a has three and b two: a's lower end first, though it came later. Then
  // both have two, and b is the older child; a two and b one, a's lower end again; both one; the root's own.
  CHECK(order_of(d, 6) == Rows{"extend 5", "extend 3", "extend 6", "extend 7", "extend 4", "extend 2"});
}

TEST_CASE("§2.2 dfs-weight: of subtrees with as many the one that is longer in the tree comes first") {
  Driver d(one_at_a_time(QueuePolicy::dfs_weight));
  d.add({64, 2, {1, 2, 3, 4}});
  d.add({64, 2, {5, 6, 7, 8}});
  d.drain();
  d.add({96, 9, {5, 6, 7, 8, 40, 41}});
  d.add({96, 9, {1, 2, 30, 31, 32, 33}});  // splits the first: its upper part keeps the place
  CHECK(order_of(d, 2) == Rows{"extend 3", "extend 2"});
}

TEST_CASE("§2.2 hrrn takes the highest ratio of tokens computed meanwhile to tokens to compute") {
  Driver d(one_at_a_time(QueuePolicy::hrrn));
  d.add({100, 9});
  d.add({300, 9});
  d.add({50, 9});
  // Nobody has waited: by number. Then 100 ÷ 50 beats 100 ÷ 300.
  CHECK(d.passes(2) == Rows{"extend 0:100@0", "extend 2:50@0"});
  // 150 tokens since 1 came are half its prompt; 10 just came and has waited for none.
  d.add({10, 9});
  CHECK(d.passes(2) == Rows{"extend 1:300@0", "extend 3:10@0"});
}

TEST_CASE("§2.2 hrrn counts the prompt, not outputs that a retracted request computes again, and hits") {
  Driver d(one_at_a_time(QueuePolicy::hrrn));
  d.add({96, 2, {1, 2, 3, 4, 5, 6}});
  d.drain();
  d.add({200, 9});                         // 1
  d.add({150, 9});                         // 2
  d.add({112, 9, {1, 2, 3, 4, 5, 6, 7}});  // 3: 16 tokens
  CHECK(d.passes(3) == Rows{"extend 1:200@0", "extend 3:16@96", "extend 2:150@0"});
}

TEST_CASE("§2.2 routing-key takes whose key runs most, then other keys that run, then the rest by key") {
  Driver d(one_at_a_time(QueuePolicy::routing_key));
  for (const std::uint64_t key : {7, 9, 7}) d.add({.prompt = 40, .max_output = 500, .stream = key});
  d.add({.prompt = 40, .max_output = 500});
  d.passes(4);
  for (const std::uint64_t key : {5, 9, 0, 7}) d.add({.prompt = 80, .max_output = 500, .stream = key});
  CHECK(order_of(d, 4) == Rows{"extend 7", "extend 5", "extend 6", "extend 4"});
  Driver nobody(one_at_a_time(QueuePolicy::routing_key));
  for (const std::uint64_t key : {5, 3, 0}) nobody.add({.prompt = 80, .max_output = 500, .stream = key});
  CHECK(order_of(nobody, 1) == Rows{"extend 0"});  // no key runs: as they stand
}

TEST_CASE("§2.2 random: every order comes, and the same one with the same seed") {
  std::map<Rows, int> orders;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SglangConfig c = one_at_a_time(QueuePolicy::random);
    c.seed = seed;
    Driver d(c), again(c);
    for (int i = 0; i < 3; ++i) {
      d.add({10, 9});
      again.add({10, 9});
    }
    const Rows rows = order_of(d, 3);
    ++orders[rows];
    REQUIRE(order_of(again, 3) == rows);
  }
  REQUIRE(orders.size() == 6);
  for (const auto& [rows, count] : orders) CHECK((count > 25 && count < 80));  // 50 expected
}

TEST_CASE("§2.8 min_free_slots_delay waits until so many may be admitted at once, unless nobody runs") {
  SglangConfig c = config();
  c.max_running_requests = 4;
  c.delays.free_slots = 2;
  Driver d(c);
  for (const std::int32_t outputs : {3, 6, 9, 9}) d.add({10, outputs, {}, 16, true});
  d.add({20, 5, {}, 16, true});
  CHECK(d.pass() == "extend 0:10@0 1:10@0 2:10@0 3:10@0");
  // One place is free after the third token of 0, two after the sixth of 1.
  CHECK(d.passes(6) == Rows{"decode 4 ctx 40", "decode 4 ctx 44", "decode 3 ctx 36", "decode 3 ctx 39",
                            "decode 3 ctx 42", "decode 2 ctx 30"});
  CHECK(d.pass() == "extend 4:20@0");
  d.drain();
  d.add({10, 5});
  CHECK(d.pass() == "extend 5:10@0");
}

TEST_CASE("§2.8 the prefill delayer waits where a batch as large as the largest of late would not fit") {
  SglangConfig c = config();
  c.max_running_requests = 4;
  c.delays.on = true;
  c.delays.passes = 3;
  const auto start = [](Driver& d) {
    for (const std::int32_t outputs : {3, 6, 40, 40}) d.add({10, outputs, {}, 16, true});
    d.add({20, 40, {}, 16, true});
    d.add({20, 40, {}, 16, true});
    return d.pass();
  };
  Driver d(c);
  CHECK(start(d) == "extend 0:10@0 1:10@0 2:10@0 3:10@0");
  // 4 − 3 < 4, but the first time is let pass (skip_first_delayer).
  CHECK(d.until("extend").back() == "extend 4:20@0");
  // Then two passes of three are kept from the next.
  const Rows rows = d.until("extend");
  CHECK(rows.back() == "extend 5:20@0");
  Driver without(config());
  SglangConfig plain = c;
  plain.delays.on = false;
  Driver eager(plain);
  start(eager);
  eager.until("extend");
  CHECK(rows.size() == eager.until("extend").size() + 2);
  // Little use of the pool lets it pass at once.
  c.delays.low_usage = 0.5;
  Driver low(c);
  start(low);
  low.until("extend");
  CHECK(low.until("extend").size() == rows.size() - 2);
}

// RecentPrefillBatchSizeTracker: attempts that were refused count with their estimate, min(queue, free
// slots).
TEST_CASE("§2.8 the prefill delayer forgets its largest batch after 16 attempts, refused ones among them") {
  SglangConfig c = config();
  c.max_running_requests = 4;
  c.delays.on = true;
  c.delays.passes = 100;
  Driver d(c);
  for (const std::int32_t outputs : {3, 60, 60, 60}) d.add({10, outputs, {}, 16, true});
  d.add({20, 3, {}, 16, true});
  CHECK(d.pass() == "extend 0:10@0 1:10@0 2:10@0 3:10@0");
  CHECK(d.until("extend").back() == "extend 4:20@0");  // the first time is let pass
  // 4 − 3 < 4 until the four are the seventeenth attempt back: 4's own and fifteen refused ones came since.
  d.add({20, 3, {}, 16, true});
  const Rows rows = d.until("extend");
  CHECK(rows.back() == "extend 5:20@0");
  Driver eager([&] {
    SglangConfig plain = c;
    plain.delays.on = false;
    return plain;
  }());
  for (const std::int32_t outputs : {3, 60, 60, 60}) eager.add({10, outputs, {}, 16, true});
  eager.add({20, 3, {}, 16, true});
  eager.pass();
  eager.until("extend");
  eager.add({20, 3, {}, 16, true});
  CHECK(rows.size() == eager.until("extend").size() + 15);
}

TEST_CASE("§2.8 the prefill delayer waits for a queue of its share of the running batch, within limits") {
  SglangConfig c = config();
  c.max_running_requests = 100;
  c.delays.on = true;
  c.delays.queue_ratio = 0.5;
  c.prefill_max_requests = 3;
  c.delays.most_ms = 4;
  const auto start = [](Driver& d) {
    for (int i = 0; i < 9; ++i) d.add({10, 90, {}, 16, true});
    CHECK(d.pass().find("extend 0") == 0);
    d.pass();  // of 3 running half is 1
    d.pass();
    d.add({20, 90, {}, 16, true});
    d.pass();  // the first time
    d.add({20, 90, {}, 16, true});
    d.add({20, 90, {}, 16, true});
  };
  // min(10 · ½, 3) = 3 must wait.
  Driver d(c);
  start(d);
  d.scheduler.at(SimTime(1000000));
  CHECK(d.pass().find("decode") == 0);
  d.add({20, 90, {}, 16, true});
  CHECK(d.pass() == "extend 10:20@0 11:20@0 12:20@0");
  Driver alone(c);
  start(alone);
  alone.scheduler.at(SimTime(1000000));
  CHECK(alone.pass().find("decode") == 0);
  alone.scheduler.at(SimTime(4999999));
  CHECK(alone.pass().find("decode") == 0);
  alone.scheduler.at(SimTime(5000000));
  CHECK(alone.pass() == "extend 10:20@0 11:20@0");
}

TEST_CASE(
    "random worlds with every policy and delay: everybody ends once, no token comes twice, none leaks") {
  constexpr std::array policies{QueuePolicy::dfs_weight, QueuePolicy::random, QueuePolicy::hrrn,
                                QueuePolicy::routing_key, QueuePolicy::lpm};
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 77);
    const auto pick = [&](std::int64_t low, std::int64_t high) {
      return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
    };
    SglangConfig c = config(pick(60, 200) * 8);
    c.cache.page_size = r.below(3) == 0 ? 8 : 1;
    c.schedule_policy = policies[r.below(policies.size())];
    c.seed = seed;
    c.max_running_requests = pick(2, 12);
    c.chunked_prefill_size = pick(8, 60) * 8;
    c.enable_mixed_chunk = r.below(4) == 0;
    c.delays.on = r.below(2) == 0;
    c.delays.passes = pick(1, 10);
    c.delays.queue_ratio = r.below(2) == 0 ? 0.5 : 0;
    c.delays.low_usage = r.below(3) == 0 ? 0.3 : 0;
    c.delays.free_slots = r.below(3) == 0 ? pick(1, 14) : 0;
    Driver d(c);
    std::set<std::uint64_t> accepted;
    for (std::uint64_t i = 0; i < 25; ++i) {
      Driver::Ask ask;
      ask.prompt = static_cast<std::int32_t>(pick(1, 250));
      ask.max_output = static_cast<std::int32_t>(pick(1, 100));
      ask.ignore_eos = r.below(2) == 0;
      ask.stream = r.below(2) == 0 ? 0 : 1 + r.below(3);
      const std::uint64_t family = r.below(3), shared = r.below(12);
      for (std::uint64_t k = 0; ask.stream == 0 && k * 16 < static_cast<std::uint64_t>(ask.prompt); ++k)
        ask.ids.push_back(k < shared ? family * 100 + k : (i + 10) * 1000 + k);
      if (d.add(ask)) accepted.insert(i);
      for (std::int64_t n = pick(0, 12); n > 0 && d.scheduler.has_work(); --n) d.pass();
    }
    REQUIRE(d.drain(20000) < 20000);
    while (d.scheduler.open_steps() > 0) d.pass();
    std::set<std::uint64_t> ended;
    std::int64_t outputs = 0;
    for (const Driver::Ended& e : d.ended) {
      REQUIRE(ended.insert(e.request).second);
      outputs += e.outputs;
    }
    for (const std::uint64_t request : d.aborted) REQUIRE(ended.insert(request).second);
    REQUIRE(ended == accepted);
    if (d.aborted.empty()) REQUIRE(d.tokens == outputs);
    REQUIRE(d.scheduler.cache().held() == 0);
    REQUIRE(d.scheduler.cache().protected_tokens() == 0);
  }
}
