// SGLang's rules for speculation, pass by pass. § are those of ../shared/reference/sglang_0_5.md; where the
// wheel of 0.5.23 says more, its file is named.
#include "catch.h"
#include "sglang_driver.h"

using namespace orrery;
using sglang_test::config;
using sglang_test::Driver;
using Rows = std::vector<std::string>;
using Ended = std::vector<Driver::Ended>;

namespace {

SglangConfig speculating(std::int32_t drafts, bool network = true, std::int64_t tokens = 100000) {
  SglangConfig c = config(tokens);
  c.speculation = {.tokens = drafts, .lookahead = network ? drafts : 0, .drops_last_hit = network};
  return c;
}

}  // namespace

TEST_CASE("§6, §3 a decode verifies all drafts and reserves slots for two verifications") {
  Driver d(speculating(3));
  d.add({100, 50});
  CHECK(d.pass() == "extend 0:100@0");
  CHECK(d.scheduler.cache().held() == 100);
  CHECK(d.pass() == "verify 1+3 ctx 100");
  CHECK(d.scheduler.cache().held() + d.scheduler.cache().protected_tokens() == 108);  // 2 * (3 + 1) ahead
}

TEST_CASE("§6, §1.2 overlap: the context of a decode lags one verification, whose slots are there") {
  Driver d(speculating(3));
  d.acceptance.accepts = 2;
  d.add({100, 50});
  // Result i - 1 is unknown to schedule(i): 100 twice, then 3 tokens a step.
  CHECK(d.passes(5) == Rows{"extend 0:100@0", "verify 1+3 ctx 100", "verify 1+3 ctx 100",
                            "verify 1+3 ctx 103", "verify 1+3 ctx 106"});
  CHECK(d.tokens == 1 + 3 * 3);
}

// `maybe_evict_swa` in `eagle_prepare_for_decode`: once 100 + outputs - 1 lies 128 beyond a window of 100,
// with outputs as known two passes late: 1 + 4 · 32 in pass 34. [100, 128) goes; the prompt is the tree's.
TEST_CASE(
    "§6, §4 SWA: drafts take slots in both pools, and what leaves the window goes by the known tokens") {
  SglangConfig c = speculating(3, false);
  c.cache.window = 100;
  c.cache.windowed_tokens = 3000;
  Driver d(c);
  d.acceptance.accepts = 3;
  d.add({100, 400});
  d.passes(34);
  const RadixCache& cache = d.scheduler.cache();
  CHECK(cache.held() == cache.windowed_held());
  CHECK(cache.held() == 4 * 31 + 8);  // two verifications ahead of what is committed
  d.pass();
  CHECK(cache.held() == 4 * 32 + 8);
  CHECK(cache.windowed_held() == cache.held() - 28);
  CHECK(cache.windowed_protected() == 100);
  d.drain();
  CHECK(d.ended.size() == 1);
  CHECK(d.tokens == 400);
  CHECK(cache.windowed_held() == 0);
}

TEST_CASE("§6, §1.3 without overlap a decode sees what the one before it accepted") {
  SglangConfig c = speculating(3);
  c.overlap = false;
  Driver d(c);
  d.acceptance.accepts = 3;
  d.add({100, 50});
  CHECK(d.passes(3) == Rows{"extend 0:100@0", "verify 1+3 ctx 100", "verify 1+3 ctx 104"});
  CHECK(d.scheduler.cache().held() + d.scheduler.cache().protected_tokens() == 104 + 8);
}

TEST_CASE("§6, §3 slots are kept while drafts are rejected, and whole pages are taken") {
  SglangConfig c = speculating(1, false, 6400);
  c.cache.page_size = 64;
  Driver d(c);
  d.add({60, 50});
  d.pass();
  CHECK(d.scheduler.cache().held() == 64);
  d.pass();  // 60 + 4 end with the page
  CHECK(d.scheduler.cache().held() == 64);
  d.pass();
  CHECK(d.scheduler.cache().held() == 64);  // the context is still 60 to it
  d.pass();
  CHECK(d.scheduler.cache().held() == 128);  // 61 + 4
}

TEST_CASE("§1.2, §6 a request whose next token is its last by length is left out, drafts or not") {
  Driver d(speculating(3));
  d.add({100, 2});
  // Pass 2: one token is known and the first verification under way brings the second at least.
  CHECK(d.passes(3) == Rows{"extend 0:100@0", "verify 1+3 ctx 100", "none"});
  CHECK(d.ended == Ended{{0, 2, 1}});
}

TEST_CASE("§1.2, §6 accepted drafts end a request that was in the next decode already: one wasted row") {
  Driver d(speculating(3));
  d.acceptance.accepts = 3;
  d.add({100, 4});
  CHECK(d.passes(3) == Rows{"extend 0:100@0", "verify 1+3 ctx 100", "verify 1+3 ctx 100"});
  CHECK(d.ended == Ended{{0, 4, 1}});  // 1 + 4, trimmed at the limit
  CHECK(d.tokens == 4);
  CHECK(d.pass() == "none");
  CHECK_FALSE(d.scheduler.has_work());
}

TEST_CASE("§4, §6 an end gives back all slots that were reserved and leaves what was said to the tree") {
  Driver d(speculating(3));
  d.acceptance.accepts = 3;
  Driver::Ask ask{100, 50};
  ask.eos = 3;
  d.add(ask);
  d.drain();
  CHECK(d.ended == Ended{{0, 3, 1}});
  CHECK(d.scheduler.cache().held() == 0);
  CHECK(d.scheduler.cache().protected_tokens() == 0);
  // Prompt and outputs up to the EOS; keys are pairs of tokens, one fewer.
  CHECK(d.scheduler.cache().evictable() == 100 + 3 - 1);
}

TEST_CASE("§4 a network's cache is keyed by pairs of tokens: a hit is one shorter; n-grams key by tokens") {
  for (const bool network : {true, false}) {
    Driver d(speculating(2, network));
    d.add({96, 4, {42}, 96});
    d.drain();
    d.add({96, 4, {42}, 96});
    d.pass();
    CHECK(d.hit_tokens == (network ? 94 : 95));
  }
}

TEST_CASE("§4 pairs agree on one fewer than tokens, where contents part and where they end") {
  const TokenRuns a = name_pairs(name_tokens(std::vector<std::uint64_t>{1, 2}, 4, 0, 8, 1));
  const TokenRuns b = name_pairs(name_tokens(std::vector<std::uint64_t>{1, 3}, 4, 0, 8, 2));
  RadixCache cache({.tokens = 100});
  cache.take(7);
  cache.insert(a, 7, {});
  CHECK(cache.match(a, 7).tokens == 7);
  CHECK(cache.match(b, 7).tokens == 3);  // four tokens are the same
}

TEST_CASE("§2.8 mixed chunks: EAGLE decodes plainly beside prompts, n-grams never mix") {
  SchedulerConfig engine;
  engine.num_gpu_blocks = 10000;
  engine.block_size = 1;
  engine.speculation = {.tokens = 3, .lookahead = 3, .drops_last_hit = true};
  engine.options.set("enable_mixed_chunk", true);
  CHECK(sglang_config(engine).enable_mixed_chunk);
  engine.speculation.lookahead = 0;
  CHECK_FALSE(sglang_config(engine).enable_mixed_chunk);

  SglangConfig c = speculating(3);
  c.enable_mixed_chunk = true;
  Driver d(c);
  d.acceptance.accepts = 3;
  d.add({100, 50});
  d.passes(2);
  d.add({30, 50});
  CHECK(d.pass() == "mixed 1:30@0 + 1 ctx 100");
  const std::int64_t before = d.tokens;
  CHECK(d.pass() == "verify 2+3 ctx 134");  // 30, and 100 + 4
  CHECK(d.tokens == before + 2);            // a first token and one plain token
}

TEST_CASE("§3 retraction with speculation: the same order, and the tokens in flight are dropped") {
  SglangConfig c = speculating(3, true, 400);
  c.schedule_conservativeness = 0.0001;  // futures of the running are hardly reserved
  Driver d(c);
  d.add({100, 280});
  d.pass();
  d.add({100, 150});
  CHECK(d.passes(2) == Rows{"extend 1:100@0", "verify 2+3 ctx 200"});
  const Rows rows = d.until("retract");
  // Both say a token a step: contexts of 192 and 8 slots ahead each fill the pool. Outputs and prompts are
  // equal, so the later one in the batch goes.
  CHECK(rows[rows.size() - 2] == "verify 2+3 ctx 384");
  CHECK(rows.back() == "verify 1+3 ctx 193 retract 1");
  const std::int64_t before = d.tokens;
  CHECK(d.pass() == "verify 1+3 ctx 194");
  CHECK(d.tokens == before + 1);  // of 0; the one of 1 is said again later
  d.drain();
  CHECK(d.ended.size() == 2);
  CHECK(d.ended[0].outputs == 280);
  CHECK(d.ended[1].outputs == 150);
  CHECK(d.tokens == 430);
  CHECK(d.scheduler.cache().held() == 0);
}

TEST_CASE("§6 n-grams compute all drafts of the tree whether they found any or not") {
  Driver d(speculating(4, false));
  d.acceptance.accepts = 4;
  d.acceptance.proposes = 0;
  d.add({100, 50});
  d.passes(3);
  CHECK(d.pass() == "verify 1+4 ctx 101");
  CHECK(d.scheduler.counters().speculation.verifications == 0);
  d.acceptance.proposes = 4;
  d.passes(4);
  CHECK(d.scheduler.counters().speculation.accepted > 0);
}

TEST_CASE("§6, §2.10 the ratio decays with every verification, however many tokens it brings") {
  Driver d(speculating(3));
  d.acceptance.accepts = 3;
  d.add({100, 500});
  const double before = d.scheduler.new_token_ratio();
  d.passes(11);
  CHECK(d.scheduler.new_token_ratio() == Approx(before - 10 * (0.7 - 0.098) / 600));
}
