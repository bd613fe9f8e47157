// SGLang's loop, chunks, prefix visibility and ends: small traces that can be followed by hand. § are those
// of
// ../shared/reference/sglang_0_5.md.
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using Rows = std::vector<std::string>;
using Ended = std::vector<Driver::Ended>;

TEST_CASE("§1.2 overlap: a prompt decodes before its first token is known; a length end wastes no row") {
  Driver d(config());
  d.add({100, 3});
  // pass 0 launches and processes nothing; pass 1 decodes unseen; pass 3 knows that token 3 is in flight.
  CHECK(d.passes(4) == Rows{"extend 0:100@0", "decode 1 ctx 100", "decode 1 ctx 101", "none"});
  CHECK(d.ended == Ended{{0, 3, 2}});
  CHECK(d.tokens == 3);
  CHECK_FALSE(d.scheduler.has_work());
}

TEST_CASE("§1.2 overlap: one token only: the request joins the running batch and is left out at once") {
  Driver d(config());
  d.add({100, 1});
  CHECK(d.passes(2) == Rows{"extend 0:100@0", "none"});
  CHECK(d.ended == Ended{{0, 1, 0}});
}

TEST_CASE("§1.2 overlap: an EOS is learned behind the launch of the next decode: one wasted row") {
  Driver d(config());
  d.add({100, 50});
  d.say_eos(0, 1);  // with the first decode
  CHECK(d.passes(3) == Rows{"extend 0:100@0", "decode 1 ctx 100", "decode 1 ctx 101"});
  CHECK(d.ended == Ended{{0, 2, 1}});
  CHECK(d.scheduler.open_steps() == 1);  // the wasted one
  CHECK(d.pass() == "none");
  CHECK(d.tokens == 2);
}

TEST_CASE("§1.2 overlap: EOS on the first token wastes a decode row too") {
  Driver d(config());
  d.add({100, 50});
  d.say_eos(0);
  CHECK(d.passes(3) == Rows{"extend 0:100@0", "decode 1 ctx 100", "none"});
  CHECK(d.ended == Ended{{0, 1, 0}});
  CHECK(d.tokens == 1);
}

TEST_CASE("§1.3 without overlap an EOS wastes nothing and results are known to the next pass") {
  SglangConfig c = config();
  c.overlap = false;
  Driver d(c);
  d.add({100, 50});
  d.say_eos(0, 1);
  CHECK(d.passes(2) == Rows{"extend 0:100@0", "decode 1 ctx 100"});
  CHECK(d.ended == Ended{{0, 2, 1}});
  CHECK_FALSE(d.scheduler.has_work());
}

TEST_CASE("§1.2 KV of an end is usable one pass later") {
  Driver d(config(230));  // 1 needs 100 + 20 + 1, and 0 holds or reserves 119
  d.add({100, 20, {}, 16, true});
  d.add({100, 20});
  const Rows rows = d.passes(22);
  CHECK(rows[0] == "extend 0:100@0");
  CHECK(rows[19] == "decode 1 ctx 118");
  // Left out in pass 20, its result processed behind it: admission sees the room in pass 21.
  CHECK(rows[20] == "none");
  CHECK(rows[21] == "extend 1:100@0");
  CHECK(d.ended == Ended{{0, 20, 19}});
}

TEST_CASE("§1.4, §2.6 golden: chunk 8192 and three prompts of 5000") {
  Driver d(config());
  for (int i = 0; i < 3; ++i) d.add({5000, 3});
  CHECK(d.passes(4) == Rows{"extend 0:5000@0 1:3192@0", "extend 1:1808@3192 2:5000@0", "decode 3 ctx 15000",
                            "decode 3 ctx 15003"});
  CHECK(d.pass() == "none");
  CHECK(d.ended == Ended{{0, 3, 3}, {1, 3, 3}, {2, 3, 3}});
  CHECK(d.tokens == 9);
}

TEST_CASE("§2.6 a long prompt is prefilled in consecutive steps, and decodes stand still") {
  SglangConfig c = config();
  c.chunked_prefill_size = 1000;
  Driver d(c);
  d.add({100, 10});
  CHECK(d.passes(2) == Rows{"extend 0:100@0", "decode 1 ctx 100"});
  d.add({2500, 2});
  CHECK(d.passes(4) ==
        Rows{"extend 1:1000@0", "extend 1:1000@1000", "extend 1:500@2000", "decode 2 ctx 2601"});
}

TEST_CASE("§2.8 prefill_decode_interval: after each prefill so many passes decode only") {
  SglangConfig c = config();
  c.chunked_prefill_size = 1000;
  c.prefill_decode_interval = 2;
  Driver d(c);
  d.add({100, 20});
  d.add({2500, 2});
  CHECK(d.passes(7) == Rows{"extend 0:100@0 1:900@0", "decode 1 ctx 100", "decode 1 ctx 101",
                            "extend 1:1000@900", "decode 1 ctx 102", "decode 1 ctx 103",
                            "extend 1:600@1900"});
}

TEST_CASE("§2.8 enable_mixed_chunk: running requests join with a token each") {
  SglangConfig c = config();
  c.chunked_prefill_size = 1000;
  c.enable_mixed_chunk = true;
  Driver d(c);
  d.add({100, 10});
  CHECK(d.passes(2) == Rows{"extend 0:100@0", "decode 1 ctx 100"});
  d.add({1500, 5});
  // The chunk is 1000 less the running request.
  CHECK(d.passes(3) == Rows{"mixed 1:999@0 + 1 ctx 101", "mixed 1:501@999 + 1 ctx 102", "decode 2 ctx 1603"});
}

TEST_CASE("§2.7 two equal prompts in one batch both compute") {
  Driver d(config());
  const std::vector<std::uint64_t> ids{1, 2, 3, 4, 5, 6};
  d.add({96, 3, ids});
  d.add({96, 3, ids});
  CHECK(d.pass() == "extend 0:96@0 1:96@0");
}

TEST_CASE("§2.7 a completed prompt is not visible in the next pass, but in the one behind it") {
  const std::vector<std::uint64_t> ids{1, 2, 3, 4, 5, 6};
  Driver d(config());
  d.add({96, 9, ids});
  d.pass();
  d.add({96, 9, ids});
  CHECK(d.pass() == "extend 1:96@0");  // result of step 0 comes behind this launch
  d.add({96, 9, ids});
  CHECK(d.pass() == "extend 2:1@95");  // §4: never the last token
}

TEST_CASE("§2.7 a chunk that is not the last is visible in the very next pass") {
  SglangConfig c = config();
  c.chunked_prefill_size = 128;
  Driver d(c);
  std::vector<std::uint64_t> ids;
  for (std::uint64_t i = 0; i < 12; ++i) ids.push_back(i + 1);
  d.add({192, 5, ids});
  CHECK(d.pass() == "extend 0:128@0");
  d.add({64, 5, {1, 2, 3, 4}});
  CHECK(d.pass() == "extend 0:64@128 1:1@63");
}

TEST_CASE("§4 a length end keeps prompt + outputs − 1, an EOS with a wasted row all of them") {
  const auto cached = [](bool eos) {
    Driver d(config());
    const std::int32_t outputs = 8;
    d.add({100, eos ? 50 : outputs, {}, 16, false, 7});
    if (eos) d.say_eos(0, outputs - 1);
    d.drain();
    if (d.scheduler.open_steps() > 0) d.pass();
    d.add({200, 5, {}, 16, false, 7});  // the session's next turn
    d.pass();
    return d.hit_tokens;
  };
  CHECK(cached(false) == 107);
  CHECK(cached(true) == 108);
}

TEST_CASE("§4 pages: hits and kept content are whole pages") {
  SglangConfig c = config(64 * 1000);
  c.cache.page_size = 64;
  Driver d(c);
  const std::vector<std::uint64_t> ids{1, 2, 3, 4, 5, 6, 7, 8};
  d.add({128, 3, ids});
  d.drain();
  d.add({128, 3, ids});
  CHECK(d.pass() == "extend 1:64@64");  // golden of §4: prompt 128 hits 64
}

TEST_CASE("§1.5 refusals and limits") {
  SglangConfig c = config(1000);
  c.context_length = 2000;
  Driver d(c);
  // max_req_len = min(2000, 1000) − 1 = 999; the prompt must be below 994.
  CHECK_FALSE(d.add({994, 1}));
  CHECK(d.add({993, 1}));
  CHECK_FALSE(d.add({500, 1501}));  // more than the context in all: refused by the front end
  SglangConfig e = config(5000);
  e.context_length = 1000;
  Driver short_context(e);
  CHECK_FALSE(short_context.add({994, 1}));
  CHECK(short_context.add({993, 7}));
  // Cut to max_req_len − prompt − 1 = 999 − 993 − 1 = 5.
  short_context.drain();
  CHECK(short_context.ended == Ended{{1, 5, 4}});
}

TEST_CASE("§1.5 outputs are cut at the pool: tokens − prompt − page − 1") {
  SglangConfig c = config(200);
  Driver d(c);
  d.add({100, 500});
  d.drain();
  CHECK(d.ended.at(0).outputs == 98);  // 200 − 100 − 1 − 1; max_req_len − prompt − 1 is 98 too
}
