// SGLang's queue policies (§2.2 of ../shared/reference/sglang_0_5.md), and conservation under random
// configurations, pass by pass.
#include <algorithm>
#include <map>

#include "base/random.h"
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using sglang_test::one_at_a_time;
using Rows = std::vector<std::string>;

TEST_CASE("§2.2 fcfs keeps the order of arrival, lof takes the longest outputs first") {
  for (const QueuePolicy policy : {QueuePolicy::fcfs, QueuePolicy::lof}) {
    Driver d(one_at_a_time(policy));
    d.add({10, 5});
    d.add({20, 50});
    d.add({30, 5});
    const Rows rows = d.passes(3);
    if (policy == QueuePolicy::fcfs) {
      CHECK(rows == Rows{"extend 0:10@0", "extend 1:20@0", "extend 2:30@0"});
    } else {
      CHECK(rows == Rows{"extend 1:20@0", "extend 0:10@0", "extend 2:30@0"});
    }
  }
}

TEST_CASE("§2.2 lpm takes the longest cached prefix first") {
  Driver d(one_at_a_time(QueuePolicy::lpm));
  d.add({96, 2, {1, 2, 3, 4, 5, 6}});
  d.drain();
  d.add({100, 2});
  d.add({96, 2, {1, 2, 3, 7, 8, 9}});
  d.add({96, 2, {1, 2, 3, 4, 5, 9}});
  CHECK(d.passes(3) == Rows{"extend 3:16@80", "extend 2:48@48", "extend 1:100@0"});
}

TEST_CASE("§2.2 lpm: of several with the same uncached prefix all but the first wait") {
  Driver d(one_at_a_time(QueuePolicy::lpm));
  d.add({64, 9, {1, 2, 3, 4}});
  d.add({64, 9, {1, 2, 3, 4}});
  d.add({50, 9});
  // 1 shares 64 ≥ 32 tokens with 0, which is ahead of it: sorted last, and by then it hits.
  CHECK(d.passes(3) == Rows{"extend 0:64@0", "extend 2:50@0", "extend 1:1@63"});
}

TEST_CASE("§2.2 shortest-prefill-first takes the least uncached work first") {
  Driver d(one_at_a_time(QueuePolicy::shortest_prefill_first));
  d.add({300, 9});
  d.add({100, 9});
  d.add({200, 9});
  CHECK(d.passes(3) == Rows{"extend 1:100@0", "extend 2:200@0", "extend 0:300@0"});
}

TEST_CASE("§2.2 every 32nd attempt touches the prefixes of those that wait") {
  for (const int tiny : {29, 28}) {
    Driver d(config(156 + 2 * tiny));
    const std::vector<std::uint64_t> a{1, 2}, b{3, 4};
    d.add({20, 2, a});  // attempt 0
    d.drain();
    d.add({20, 2, b});  // 1
    d.drain();
    for (int i = 0; i < tiny; ++i) {  // 2 …
      d.add({2, 1});
      d.drain();
    }
    d.add({10, 120, {}, 16, true});  // 31, or 30
    d.pass();
    // 32, or 31: the head does not fit, so that nobody looks up what stands behind it.
    d.add({100, 50});
    d.add({20, 2, a});
    // The decodes need 15 tokens more than there are: the outputs of a and b go, then the older of both
    // prompts, which is a unless it was touched.
    const std::string row = d.until("extend").back();
    CHECK(row == (tiny == 29 ? "extend 32:100@0 33:1@19" : "extend 31:100@0 32:20@0"));
  }
}

TEST_CASE("random configurations: no KV leaks, each request ends once, no token comes twice") {
  std::uint64_t retracted = 0, aborted = 0, ended = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    RandomStream r(seed, RandomPurpose::property_test, 10);
    const auto pick = [&](std::int64_t low, std::int64_t high) {
      return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
    };
    SglangConfig c = config();
    c.cache.page_size = r.below(3) == 0 ? 8 : 1;
    c.cache.tokens = pick(60, 200) * 8;
    c.cache.prefix_sharing = r.below(4) != 0;
    c.overlap = r.below(4) != 0;
    c.enable_mixed_chunk = r.below(4) == 0;
    c.chunked_prefill_size = pick(8, 60) * 8;
    c.schedule_conservativeness = r.below(2) == 0 ? 1 : 0.01;
    const bool spaced = r.below(4) == 0;
    c.prefill_decode_interval = spaced ? pick(1, 40) : 0;
    Driver d(c);
    std::int64_t accepted = 0;
    const std::int64_t requests = pick(3, 30);
    for (std::int64_t i = 0; i < requests; ++i) {
      Driver::Ask ask;
      ask.prompt = static_cast<std::int32_t>(pick(1, 300));
      ask.max_output = static_cast<std::int32_t>(pick(1, 200));
      ask.ignore_eos = r.below(3) == 0;
      const std::uint64_t family = r.below(3), shared = r.below(12);
      for (std::uint64_t k = 0; k * 16 < static_cast<std::uint64_t>(ask.prompt); ++k)
        ask.ids.push_back(k < shared ? family * 100 + k : static_cast<std::uint64_t>(i + 10) * 1000 + k);
      accepted += d.add(ask) ? 1 : 0;
      for (std::int64_t n = pick(0, 12); n > 0 && d.scheduler.has_work(); --n) d.pass();
    }
    d.drain(20000);
    while (d.scheduler.open_steps() > 0) d.pass();
    REQUIRE_FALSE(d.scheduler.has_work());
    std::map<std::uint64_t, int> ends;
    std::int64_t outputs = 0;
    for (const Driver::Ended& e : d.ended) {
      ++ends[e.request];
      outputs += e.outputs;
    }
    for (const std::uint64_t request : d.aborted) ++ends[request];
    for (const auto& [request, times] : ends) REQUIRE(times == 1);
    REQUIRE(static_cast<std::int64_t>(ends.size()) == accepted);
    if (d.aborted.empty()) REQUIRE(d.tokens == outputs);  // an aborted request got some, and has no length
    REQUIRE(d.scheduler.cache().held() == 0);
    REQUIRE(d.scheduler.cache().protected_tokens() == 0);
    retracted += d.scheduler.counters().preemptions;
    aborted += d.aborted.size();
    ended += d.ended.size();
  }
  INFO(retracted << " retracted, " << aborted << " aborted, " << ended << " ended");
  CHECK(retracted > 50);
  CHECK(ended > 2000);
}
