// SGLang's priorities, preemption and limit of the queue, pass by pass. § are those of
// ../shared/reference/sglang_0_5.md; where the wheel of 0.5.23 says more, its file is named.
#include "catch.h"
#include "sglang_driver.h"
#include "workloads/priority.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using Rows = std::vector<std::string>;
using Ended = std::vector<Driver::Ended>;

namespace {

Driver::Ask ask(std::int32_t prompt, std::int32_t output, std::int32_t priority) {
  Driver::Ask a{prompt, output};
  a.priority = priority;
  return a;
}

SglangConfig by_priority(std::int64_t rows, std::int64_t tokens = 100000) {
  SglangConfig c = config(tokens);
  c.enable_priority_scheduling = true;
  c.max_running_requests = rows;
  return c;
}

}  // namespace

TEST_CASE("§2.2 priority scheduling: the highest number first, of equals the first; the other way if asked") {
  for (const bool low_first : {false, true}) {
    SglangConfig c = by_priority(64);
    c.schedule_low_priority_values_first = low_first;
    Driver d(c);
    for (const std::int32_t priority : {0, 5, 0, 9}) d.add(ask(10, 5, priority));
    CHECK(d.pass() ==
          (low_first ? "extend 0:10@0 2:10@0 1:10@0 3:10@0" : "extend 3:10@0 1:10@0 0:10@0 2:10@0"));
  }
}

// `_set_default_priority`, `_set_or_validate_priority`.
TEST_CASE("§2.9 who says no priority has the default, or is the least urgent of all") {
  for (const bool low_first : {false, true}) {
    SglangConfig c = by_priority(64);
    c.schedule_low_priority_values_first = low_first;
    const auto order = [&] {
      Driver d(c);
      for (const std::int32_t priority : {no_priority, -5, 1000, no_priority}) d.add(ask(10, 5, priority));
      return d.pass();
    };
    CHECK(order() ==
          (low_first ? "extend 1:10@0 2:10@0 0:10@0 3:10@0" : "extend 2:10@0 1:10@0 0:10@0 3:10@0"));
    c.default_priority_value = 7;
    CHECK(order() ==
          (low_first ? "extend 1:10@0 0:10@0 3:10@0 2:10@0" : "extend 2:10@0 0:10@0 3:10@0 1:10@0"));
  }
  // It is far below everybody: any priority puts it out.
  Driver d(by_priority(1));
  d.add(ask(10, 50, no_priority));
  d.passes(2);
  d.add(ask(10, 5, -1000));
  CHECK(d.pass() == "extend 1:10@0 retract 0");
}

TEST_CASE("§2.2 priority scheduling with lof: by priority, then the longest output") {
  SglangConfig c = by_priority(64);
  c.schedule_policy = QueuePolicy::lof;
  Driver d(c);
  d.add(ask(10, 5, 0));
  d.add(ask(10, 9, 0));
  d.add(ask(10, 1, 3));
  CHECK(d.pass() == "extend 2:10@0 1:10@0 0:10@0");
}

TEST_CASE("§2.9 preemption: rows are out, the difference is above 10, and the victim is queued again") {
  Driver d(by_priority(2));
  d.add(ask(10, 50, 0));
  d.add(ask(10, 50, 5));
  CHECK(d.passes(2) == Rows{"extend 1:10@0 0:10@0", "decode 2 ctx 20"});
  d.add(ask(10, 50, 10));  // 10 above one, 5 above the other: not more than the threshold
  CHECK(d.pass() == "decode 2 ctx 22");
  d.add(ask(10, 50, 11));  // goes before the other, and 0 has to leave
  CHECK(d.pass() == "extend 3:10@0 retract 0");
  CHECK(d.pass() == "decode 2 ctx 22");  // 1 with 12, 3 with 10
  d.drain();
  REQUIRE(d.ended.size() == 4);
  CHECK(d.ended[0].request == 1);
  CHECK(d.ended[1].request == 3);
  CHECK(d.scheduler.cache().held() == 0);
  CHECK(d.tokens == 4 * 50);
}

TEST_CASE(
    "§2.9 victims: the lowest priority, of equals the one queued last; its token in flight is dropped") {
  Driver d(by_priority(3));
  for (const std::int32_t priority : {0, 0, 20}) d.add(ask(10, 50, priority));
  d.passes(3);
  d.add(ask(10, 50, 20));
  CHECK(d.pass() == "extend 3:10@0 retract 1");
  d.drain();
  CHECK(d.tokens == 4 * 50);
}

TEST_CASE("§2.9 a request whose last token is in flight can be preempted; it says it again") {
  Driver d(by_priority(1));
  d.add(ask(10, 3, 0));
  d.passes(3);  // its third token is in flight
  d.add(ask(10, 5, 50));
  CHECK(d.pass() == "extend 1:10@0 retract 0");
  d.drain();
  CHECK(d.ended.size() == 2);
  CHECK(d.tokens == 3 + 5);
  CHECK(d.scheduler.cache().held() == 0);
}

TEST_CASE("§2.9 never for KV: what does not fit waits, whoever holds it") {
  Driver d(by_priority(8, 200));
  d.add(ask(100, 60, 0));
  d.passes(2);
  d.add(ask(100, 60, 99));
  CHECK(d.pass() == "decode 1 ctx 101");
  d.drain();
  CHECK(d.ended[0].request == 0);
}

TEST_CASE("§2.9 disable_priority_preemption: the order of the queue only, and the latch of rows holds") {
  SglangConfig c = by_priority(1);
  c.disable_priority_preemption = true;
  Driver d(c);
  d.add(ask(10, 5, 0));
  d.passes(2);
  d.add(ask(10, 5, 0));
  d.add(ask(10, 5, 99));
  CHECK(d.pass() == "decode 1 ctx 11");
  CHECK(d.scheduler.batch_is_full());
  d.drain();
  CHECK(d.ended[1].request == 2);
}

TEST_CASE("§3 retraction_policy: priority retracts the least urgent first") {
  for (const bool by_urgency : {false, true}) {
    SglangConfig c = config(330);
    c.schedule_conservativeness = 0.0001;
    c.retraction_by_priority = by_urgency;
    Driver d(c);
    d.add(ask(100, 180, 0));
    d.passes(20);
    d.add(ask(100, 100, 9));
    const Rows rows = d.until("retract");
    // Usually the one with fewer outputs, which is the more urgent one here.
    CHECK(rows.back().substr(rows.back().find("retract")) == (by_urgency ? "retract 0" : "retract 1"));
  }
}

TEST_CASE("§3 max_queued_requests: who finds the queue full is refused (503); the running do not count") {
  SglangConfig c = config();
  c.max_running_requests = 1;
  c.max_queued_requests = 2;
  Driver d(c);
  CHECK(d.add({10, 5}));
  d.pass();
  CHECK(d.add({10, 5}));
  CHECK(d.add({10, 5}));
  CHECK_FALSE(d.add({10, 5}));
  d.drain();
  CHECK(d.ended.size() == 3);
}

TEST_CASE("§2.9 max_queued_requests with priorities: the worst that waits makes place for a better one") {
  SglangConfig c = by_priority(1);
  c.max_queued_requests = 2;
  Driver d(c);
  d.add(ask(10, 5, 0));
  d.pass();
  d.add(ask(10, 5, 3));
  d.add(ask(10, 5, 3));
  CHECK_FALSE(d.add(ask(10, 5, 3)));  // not strictly better
  CHECK(d.add(ask(10, 5, 4)));        // of the equals the later one goes
  CHECK(d.pass() == "decode 1 ctx 10 abort 2");
  CHECK(d.turned_away == 1);
  d.drain();
  CHECK(d.ended.size() == 3);
  CHECK(d.ended[1].request == 4);
  CHECK_FALSE(d.scheduler.has_work());
}

TEST_CASE("§3 max_queued_requests: a retracted request can find the queue full, too") {
  SglangConfig c = config(330);
  c.schedule_conservativeness = 0.0001;
  c.max_queued_requests = 1;
  Driver d(c);
  d.add({100, 180});
  d.passes(20);
  d.add({100, 100});
  d.passes(3);
  d.add({300, 5});  // waits
  const Rows rows = d.until("abort");
  CHECK(rows.back().find("retract") == std::string::npos);
  CHECK(d.aborted == std::vector<std::uint64_t>{1});
  CHECK(d.turned_away == 1);
  d.drain();
  CHECK(d.ended.size() == 2);
  CHECK(d.scheduler.cache().held() == 0);
}
