// SGLang's admission and retraction: budgets at their limits, the latch, the ratio, who goes. § are those of
// ../shared/reference/sglang_0_5.md.
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using Rows = std::vector<std::string>;
using Ended = std::vector<Driver::Ended>;

TEST_CASE("§2.4 the test is strict: ext + future + page must be below what remains") {
  for (const bool fits : {false, true}) {
    // 100 + 50 + 1 for the one that is admitted; the other needs 100 + 50 + 1 < tokens − 151.
    Driver d(config(fits ? 303 : 302));
    d.add({100, 50});
    d.add({100, 50});
    CHECK(d.pass() == (fits ? "extend 0:100@0 1:100@0" : "extend 0:100@0"));
    CHECK(d.scheduler.batch_is_full() == !fits);
  }
}

TEST_CASE("§2.4 the future of the running counts at the ratio, of a newcomer in full") {
  // Pass 2: 0 holds 101 tokens and two of its 11 are scheduled, one is known: 10 · 0.7 minus what the decay
  // of one decode step takes; 1 asks 100 + 11 + 1 = 112 < 300 − 101 − ….
  const auto admitted = [](std::int64_t tokens) {
    Driver d(config(tokens));
    d.add({100, 11});
    d.passes(2);
    d.add({100, 11});
    return d.pass() == "extend 1:100@0";
  };
  // The prompt is in the tree but locked: free + evictable = tokens − 101. 10 · (0.7 − 0.602/600) = 6.99.
  CHECK_FALSE(admitted(101 + 112 + 6));
  CHECK(admitted(101 + 112 + 7));
}

TEST_CASE("§2.5 fixed lengths reserve all that is still to come") {
  const auto admitted = [](std::int64_t tokens) {
    Driver d(config(tokens));
    d.add({100, 11, {}, 16, true});
    d.passes(2);
    d.add({100, 11, {}, 16, true});
    return d.pass() == "extend 1:100@0";
  };
  CHECK_FALSE(admitted(101 + 112 + 10));
  CHECK(admitted(101 + 112 + 11));
}

TEST_CASE("§2.4 futures are clipped at 4096") {
  for (const bool fits : {false, true}) {
    SglangConfig c = config(10 + 4096 + 1 + (fits ? 1 : 0));
    c.context_length = 100000;
    Driver d(c);
    d.add({10, 50000});  // cut at the pool to about as much; clipped to 4096 for admission
    const std::string row = d.pass();
    CHECK(row == "extend 0:10@0");  // alone it always fits: outputs were cut at tokens − 12
  }
  SglangConfig c = config(2 * 4107 + 2);
  c.context_length = 100000;
  Driver d(c);
  d.add({10, 5000, {}, 16, true});
  d.add({10, 5000, {}, 16, true});
  CHECK(d.pass() == "extend 0:10@0 1:10@0");  // 4107 each although they want 5010
}

TEST_CASE(
    "§2.3 the latch: after a refusal for tokens nobody is tried, however small, until somebody leaves") {
  Driver d(config(400));
  d.add({100, 100, {}, 16, true});
  d.add({300, 80});
  CHECK(d.passes(2) == Rows{"extend 0:100@0", "decode 1 ctx 100"});
  // The empty running batch was replaced by the last one, whose latch is open: it is tried and shut once
  // more.
  CHECK(d.scheduler.batch_is_full());
  d.add({5, 5});  // would fit beside, but stands behind; and the latch is shut
  Rows rows = d.passes(99);
  CHECK(rows[97] == "decode 1 ctx 198");
  CHECK(rows[98] == "none");  // 0 is left out: the latch opens, its room comes with its result
  CHECK(d.pass() == "extend 1:300@0 2:5@0");
}

TEST_CASE("§2.3 head of line: who does not fit blocks those behind") {
  Driver d(config(1000));
  d.add({400, 100, {}, 16, true});
  d.add({600, 100});
  d.add({10, 10});
  CHECK(d.pass() == "extend 0:400@0");
}

TEST_CASE("§2.1 rows: no more running requests than max_running_requests") {
  SglangConfig c = config();
  c.max_running_requests = 2;
  Driver d(c);
  for (int i = 0; i < 3; ++i) d.add({10, 3});
  CHECK(d.passes(6) == Rows{"extend 0:10@0 1:10@0", "decode 2 ctx 20", "decode 2 ctx 22", "none",
                            "extend 2:10@0", "decode 1 ctx 10"});
}

TEST_CASE("§2.4 max_prefill_tokens without chunking: the first is always admitted") {
  SglangConfig c = config();
  c.chunked_prefill_size = -1;
  c.max_prefill_tokens = 1000;
  Driver d(c);
  d.add({5000, 2});
  d.add({400, 2});
  d.add({599, 2});
  d.add({1, 2});
  // 400 < 1000 goes on; 599 < 600 too, and 1 is not below the 1 that is left.
  CHECK(d.passes(2) == Rows{"extend 0:5000@0", "extend 1:400@0 2:599@0"});
}

TEST_CASE("§2.5 without a cache fixed lengths are admitted when every end comes in time") {
  SglangConfig c = config(330);
  c.cache.prefix_sharing = false;
  Driver d(c);
  // Two of 100 + 50: at the first end 2·50 + 2 tokens must be free of 330 − 202: 128 − 100 > 2. Three never
  // fit.
  for (int i = 0; i < 3; ++i) d.add({100, 50, {}, 16, true});
  CHECK(d.pass() == "extend 0:100@0 1:100@0");
  SglangConfig with = config(300);
  Driver e(with);  // with a cache the sum of the futures counts
  for (int i = 0; i < 2; ++i) e.add({100, 50, {}, 16, true});
  CHECK(e.pass() == "extend 0:100@0");
}

TEST_CASE("§2.10 the ratio falls with decode steps only, and an idle engine resets it") {
  Driver d(config());
  const double first = d.scheduler.new_token_ratio(), step = (0.7 - 0.7 * 0.14) / 600;
  CHECK(first == 0.7);
  d.add({100, 1000});
  d.pass();
  CHECK(d.scheduler.new_token_ratio() == first);
  d.passes(100);
  CHECK(d.scheduler.new_token_ratio() == Approx(first - 100 * step).epsilon(1e-12));
  d.passes(800);
  CHECK(d.scheduler.new_token_ratio() == Approx(0.098).epsilon(1e-12));
  d.drain();
  d.scheduler.on_idle();
  CHECK(d.scheduler.new_token_ratio() == first);
}

namespace {

SglangConfig eager(std::int64_t tokens) {  // admits as if nobody wrote much
  SglangConfig c = config(tokens);
  c.schedule_conservativeness = 0.01;
  return c;
}

}  // namespace

TEST_CASE("§3 retraction: fewest outputs, then the longest prompt, then the latest") {
  // 0 alone for a decode, then 1 and 2 in one batch: 201 tokens held, 3 more a decode; of 620 the 140th
  // finds 2.
  Driver d(eager(620));
  d.add({100, 150});
  d.passes(2);
  d.add({80, 200});
  d.add({20, 200});
  CHECK(d.pass() == "extend 1:80@0 2:20@0");
  CHECK(d.until("retract").back() == "decode 2 ctx 399 retract 1");  // as many outputs as 2, longer prompt
  CHECK(d.drain() < 2000);
  CHECK(d.ended.size() == 3);
  CHECK(d.tokens == 150 + 200 + 200);  // tokens in flight were sampled again, none came twice

  Driver e(eager(620));
  e.add({100, 150});
  e.passes(2);
  e.add({50, 200});
  e.add({50, 200});
  e.pass();
  CHECK(e.until("retract").back() == "decode 2 ctx 429 retract 2");  // the later one
}

TEST_CASE("§3 retraction drops the token in flight and goes to the tail; the tree keeps the prompt") {
  // 201 held after both prefills, 2 a decode: 102 decodes fill 405. Then 0 has sampled 104 tokens, 1 103, and
  // of each the last one is in flight.
  Driver d(eager(405));
  d.add({100, 200});
  d.passes(2);
  d.add({100, 200});
  CHECK(d.pass() == "extend 1:100@0");
  d.add({150, 100});  // waits
  const Rows rows = d.until("retract");
  CHECK(rows.size() == 103);
  CHECK(rows.back() == "decode 1 ctx 203 retract 1");
  CHECK(d.scheduler.new_token_ratio() == Approx((103.0 + 20.0) / 201.0).epsilon(1e-12));  // §2.10
  // 102 outputs are known and computed again behind the cached prompt; who waited before goes first.
  CHECK(d.until("extend").back() == "extend 2:150@0");
  CHECK(d.until("extend").back() == "extend 1:102@100");
  d.drain();
  CHECK(d.tokens == 500);
}

TEST_CASE("§3 somebody about to end: the decode is left out, nobody is retracted") {
  Driver d(eager(405));
  d.add({100, 104});
  d.passes(2);
  d.add({100, 200});
  Rows rows = d.passes(103);
  CHECK(rows.back() == "decode 2 ctx 403");
  CHECK(d.scheduler.cache().available() == 0);
  CHECK(d.passes(2) == Rows{"none", "decode 1 ctx 202"});
}

TEST_CASE("§3 the last one that does not fit is aborted") {
  SglangConfig c = eager(300);
  c.chunked_prefill_size = 100;
  c.prefill_decode_interval = 30;  // decodes beside a prompt that holds most of the pool
  Driver d(c);
  d.add({50, 200});
  d.pass();
  d.add({210, 5});
  const Rows rows = d.until("abort");
  CHECK(rows.back().find("abort 0") != std::string::npos);
  d.drain(1000);
  CHECK(d.aborted == std::vector<std::uint64_t>{0});
  CHECK(d.ended.size() == 1);
  CHECK(d.ended.at(0).outputs == 5);
}

TEST_CASE("§2.4 max_output_tokens, not what the model will say, decides who is admitted beside whom") {
  // Both worlds say exactly the same: 0 ends after ten tokens. What the client allowed differs.
  for (const std::int32_t allowed : {10, 600}) {
    Driver d(config(1000));
    d.add({100, allowed});
    d.pass();
    if (allowed > 10) d.say_eos(0, 9);
    d.add({400, 50});
    d.add({100, 50});
    // Reserved: 0.7 · 600 = 420 of the 899 left: 451 + 101 fit not both; 0.7 · 10: they do.
    const std::string row = d.pass();
    CHECK(row == (allowed == 10 ? "extend 1:400@0 2:100@0" : "extend 1:400@0"));
    d.drain();
    REQUIRE(d.ended.size() == 3);
    for (const Driver::Ended& e : d.ended) CHECK(e.outputs == (e.request == 0 ? 10 : 50));
    CHECK(d.tokens == 10 + 50 + 50);
  }
}

TEST_CASE("§2.4 beyond 4096 max_output_tokens reserves no more") {
  for (const std::int32_t allowed : {4096, 9000}) {
    SglangConfig c = config(20000);
    c.init_new_token_ratio = 1;
    Driver d(c);
    d.add({100, allowed});
    d.pass();
    // 20000 − 100 − 4096 = 15804 left for it; the test is strict.
    d.add({15804 - 4096 - 1 - 1, 4096});
    CHECK(d.pass().substr(0, 8) == "extend 1");
  }
  // A request admitted before in the same batch counts with 100 + 1 + 4096.
  for (const bool fits : {true, false}) {
    SglangConfig c = config(20000);
    c.init_new_token_ratio = 1;
    Driver d(c);
    d.add({100, 4096});
    d.pass();
    d.add({100, 4096});
    const std::int32_t room = 15804 - 4197 - 4096 - 1;
    d.add({fits ? room - 1 : room, 4096});
    CHECK(d.pass() == (fits ? "extend 1:100@0 2:7509@0" : "extend 1:100@0"));
  }
}
