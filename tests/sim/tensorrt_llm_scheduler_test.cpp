// TensorRT-LLM 1.2's rules one by one, as traces that can be checked by hand; the section of
// ../shared/reference/tensorrt_llm_1_2.md stands in the name. How to read a line: tensorrt_llm_desk.h.
#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::names;

TEST_CASE("§1.4 an idle executor takes exactly one request of a burst; the rest join pass 2") {
  Desk d(desk::config(100));
  for (int i = 0; i < 8; ++i) d.add({.prompt = 10, .max_output = 5});
  CHECK(d.pass() == "0:10@0 +0 free 99");
  CHECK(d.pass() == "1:10@0 2:10@0 3:10@0 4:10@0 5:10@0 6:10@0 7:10@0 +1 free 92");
  CHECK(d.pass() == "+8 free 92");
  // Not idle: whatever came is drained.
  d.add({.prompt = 10, .max_output = 5});
  d.add({.prompt = 10, .max_output = 5});
  CHECK(d.pass() == "8:10@0 9:10@0 +8 free 90");
}

TEST_CASE("§1.1 requests behind the cap on active ones are not seen, those that end hold their place") {
  auto c = desk::config(100);
  c.max_num_seqs = 2;
  Desk d(c);
  for (int i = 0; i < 3; ++i) d.add({.prompt = 10, .max_output = 2});
  CHECK(d.pass() == "0:10@0 +0 free 99");
  CHECK(d.pass() == "1:10@0 +1 free 98");
  // 0 is TO_COMPLETE: its last token is in flight, it is not scheduled, and 2 must wait for its place.
  CHECK(d.pass() == "+1 free 98; end 0");
  CHECK(d.pass() == "2:10@0 +0 free 98; end 1");
  CHECK(d.pass() == "+1 free 99");
}

TEST_CASE("§1.2 a stop by length wastes nothing, but its blocks stay for one more pass") {
  Desk d(desk::config(10));
  d.add({.prompt = 64, .max_output = 2});
  CHECK(d.pass() == "0:64@0 +0 free 8");
  CHECK(d.pass() == "+1 free 7");
  CHECK(d.pass() == "+0 free 7; end 0");
  CHECK(d.scheduler().view().free_blocks == 10);
  CHECK(d.scheduler().next_step().value() == 2);
}

TEST_CASE("§1.2 max_tokens 1 ends without a second step") {
  Desk d(desk::config(10));
  d.add({.prompt = 64, .max_output = 1});
  CHECK(d.pass() == "0:64@0 +0 free 8");
  CHECK(d.pass() == "+0 free 8; end 0");
}

TEST_CASE("§1.2 an EOS is learned after the next forward was launched: one wasted row") {
  Desk d(desk::config(10));
  d.add({.prompt = 10, .max_output = 50});
  CHECK(d.pass() == "0:10@0 +0 free 9");
  CHECK(d.pass() == "+1 free 9");
  d.say_eos(0);  // with the token of step 1
  CHECK(d.pass() == "+1 free 9; end 0");
  CHECK_FALSE(d.scheduler().has_work());
  CHECK(d.update().empty());  // the wasted row's output is dropped
}

TEST_CASE("§1.3 without overlap ends are known before the next pass") {
  auto c = desk::config(10);
  c.steps_in_flight = 1;
  Desk d(c);
  d.add({.prompt = 64, .max_output = 2});
  CHECK(d.pass() == "0:64@0 +0 free 8");
  CHECK(d.pass() == "+1 free 7; end 0");
  CHECK(d.scheduler().view().free_blocks == 10);
}

TEST_CASE("§2.1 admission reserves prompt and requested output: 100 + 28 is 4 blocks, 100 + 29 is 5") {
  for (const std::int32_t output : {28, 29}) {
    Desk d(desk::config(8));
    d.add({.prompt = 100, .max_output = 28});
    d.add({.prompt = 100, .max_output = output});
    CHECK(d.pass() == "0:100@0 +0 free 4");
    CHECK(d.pass() == (output == 28 ? "1:100@0 +1 free 0" : "+1 free 4"));
  }
}

TEST_CASE("§2.2 the first context that does not fit ends the list, whoever is behind it") {
  Desk d(desk::config(12));
  d.add({.prompt = 32, .max_output = 32});   // 2 blocks
  d.add({.prompt = 32, .max_output = 320});  // 11: not while 0 is there
  d.add({.prompt = 32, .max_output = 32});   // 2: would fit, waits behind 1
  CHECK(d.pass() == "0:32@0 +0 free 11");
  CHECK(d.pass() == "+1 free 10");
  for (int i = 0; i < 30; ++i) CHECK(d.pass() == "+1 free 10");
  CHECK(d.pass() == "+0 free 10; end 0");
  CHECK(d.pass() == "1:32@0 +0 free 11");
}

TEST_CASE("§2.1 a cached prompt is reserved like any other: no credit for reuse") {
  Desk d(desk::config(5));
  d.add({.prompt = 64, .max_output = 64, .hash_ids = names(1, 64)});  // 4 blocks
  CHECK(d.pass() == "0:64@0 +0 free 3");
  d.add({.prompt = 64, .max_output = 1, .hash_ids = names(1, 64)});  // 3 blocks, of which one could be shared
  CHECK(d.pass() == "+1 free 2");
  CHECK(d.pass() == "+1 free 2");  // 1 for 0's end, so 1 is left: no
  // A pool with room for both admits it, and then it shares.
  Desk e(desk::config(7));
  e.add({.prompt = 64, .max_output = 64, .hash_ids = names(1, 64)});
  e.pass();
  e.pass();
  e.add({.prompt = 64, .max_output = 1, .hash_ids = names(1, 64)});
  CHECK(e.pass() == "1:1@63 +1 free 3");
}

TEST_CASE("§2.2 a half-prefilled context stands in the list with what it still needs") {
  auto c = desk::config(12, 96);
  c.enable_chunked_prefill = true;
  Desk d(c);
  d.add({.prompt = 160, .max_output = 32});  // 6 blocks
  d.add({.prompt = 160, .max_output = 64});  // 7 blocks: 12 are not enough for both
  CHECK(d.pass() == "0:96@0... +0 free 7");
  CHECK(d.pass() == "0:64@96 +0 free 7");  // all of its blocks were taken at its first chunk
  CHECK(d.pass() == "+1 free 6");
}

TEST_CASE("§2.3 max utilization reserves the next step only and pauses the last started") {
  auto c = desk::config(6);
  c.tensorrt_llm.max_utilization = true;
  Desk d(c);
  d.add({.prompt = 60, .max_output = 60});  // to completion 4 blocks each: no evict would admit one
  d.add({.prompt = 60, .max_output = 60});
  CHECK(d.pass() == "0:60@0 +0 free 4");
  CHECK(d.pass() == "1:60@0 +1 free 2");
  for (int i = 0; i < 3; ++i) CHECK(d.pass() == "+2 free 2");  // contexts 61+60, 62+61, 63+62
  CHECK(d.pass() == "+2 free 1");                              // 0 begins its third block at 64
  CHECK(d.pass() == "+2 free 0");
  for (int i = 0; i < 30; ++i) CHECK(d.pass() == "+2 free 0");
  // 0 is at 96 and needs a block; the victim is 1, whose three blocks come back; it needs 4 (60 + 36 tokens
  // are 3 blocks, but its token in flight is the 97th), so it waits until 0 ends.
  CHECK(d.pass() == "pause 1 +1 free 2");
  for (int i = 0; i < 22; ++i) CHECK(d.pass() == "+1 free 2");
  CHECK(d.pass() == "+0 free 2; end 0");
  // §4.3: what it released is found again, but for what 0 took: of the 95 stored tokens the tail block went.
  CHECK(d.pass() == "1:32@64 +0 free 3");
  CHECK(d.cached(1) == 64);
  CHECK(d.pass() == "+1 free 2");
}

TEST_CASE("§2.3 a paused request keeps its place in the list") {
  auto c = desk::config(7);
  c.tensorrt_llm.max_utilization = true;
  Desk d(c);
  d.add({.prompt = 60, .max_output = 40});
  d.add({.prompt = 60, .max_output = 40});
  d.add({.prompt = 60, .max_output = 40});
  CHECK(d.pass() == "0:60@0 +0 free 5");
  CHECK(d.pass() == "1:60@0 2:60@0 +1 free 1");
  for (int i = 0; i < 3; ++i) d.pass();
  CHECK(d.pass() == "+3 free 0");  // 0 at 64
  // 1 and 2 at 64: 1 needs a block, 2 is the last started.
  CHECK(d.pass() == "pause 2 +2 free 1");
  d.add({.prompt = 10, .max_output = 1});  // would fit, but 2 stands before it and does not
  CHECK(d.pass() == "+2 free 1");
  CHECK(d.pass() == "+2 free 1");
}

TEST_CASE(
    "§2.3 on the retry a fresh context finds its own key: the pause freed nothing for it in this pass") {
  auto c = desk::config(6);
  c.tensorrt_llm.max_utilization = true;
  Desk d(c);
  d.add({.prompt = 10, .max_output = 30});
  CHECK(d.pass() == "0:10@0 +0 free 5");
  d.add({.prompt = 64, .max_output = 20, .hash_ids = names(1, 64)});
  d.add({.prompt = 64, .max_output = 20, .hash_ids = names(1, 64)});  // §2.4: same first missing block as 1
  d.add({.prompt = 64, .max_output = 20});
  CHECK(d.pass() == "1:64@0 3:64@0 +1 free 1");
  // 1 needs a block, which leaves none for 2 (two blocks): 3, started and behind it, is paused; 2 is skipped.
  CHECK(d.pass() == "pause 3 +2 free 2");
  CHECK(d.pass() == "2:1@63 +2 free 1");
}

TEST_CASE("§2.4 of contexts that miss the same block one runs; with overlap the other gains nothing") {
  for (const std::int32_t depth : {1, 2}) {
    auto c = desk::config(100);
    c.steps_in_flight = depth;
    Desk d(c);
    d.add({.prompt = 10, .max_output = 30});
    d.pass();
    d.add({.prompt = 96, .max_output = 9, .hash_ids = names(1, 96)});
    d.add({.prompt = 96, .max_output = 9, .hash_ids = names(1, 96)});
    CHECK(d.pass() == "1:96@0 +1 free 96");
    // Overlap: 1 is a generation now, and its blocks are stored at the end of this pass.
    CHECK(d.pass() == (depth == 2 ? "2:96@0 +2 free 92" : "2:1@95 +2 free 94"));
  }
}

TEST_CASE("§2.4 skipping needs reuse, and a full block") {
  auto c = desk::config(100);
  c.enable_prefix_caching = false;
  Desk d(c);
  d.add({.prompt = 10, .max_output = 30});
  d.pass();
  d.add({.prompt = 96, .max_output = 9, .hash_ids = names(1, 96)});
  d.add({.prompt = 96, .max_output = 9, .hash_ids = names(1, 96)});
  CHECK(d.pass() == "1:96@0 2:96@0 +1 free 93");
  Desk e(desk::config(100));
  e.add({.prompt = 10, .max_output = 30});
  e.pass();
  e.add({.prompt = 20, .max_output = 9, .hash_ids = names(1, 20)});
  e.add({.prompt = 20, .max_output = 9, .hash_ids = names(1, 20)});
  CHECK(e.pass() == "1:20@0 2:20@0 +1 free 97");
}

TEST_CASE("§3.1 without chunking the first context over the budget loses all behind it") {
  Desk d(desk::config(1000));
  d.add({.prompt = 10, .max_output = 30});
  d.pass();
  for (const std::int32_t prompt : {5000, 5000, 15}) d.add({.prompt = prompt, .max_output = 5});
  CHECK(d.pass() == "1:5000@0 +1 free 842");
  CHECK(d.pass() == "2:5000@0 3:15@0 +2 free 684");
}

TEST_CASE("§3.1 without chunking a prompt longer than a batch is refused") {
  Desk d(desk::config(1000, 100));
  d.add({.prompt = 101, .max_output = 5});
  CHECK(d.refused());
  d.add({.prompt = 100, .max_output = 5});
  CHECK_FALSE(d.refused());
}

TEST_CASE("§3.1 max utilization without chunking: a context in front takes the tokens of those behind") {
  auto c = desk::config(20, 66);
  c.tensorrt_llm.max_utilization = true;
  Desk d(c);
  d.add({.prompt = 10, .max_output = 40});
  d.pass();
  d.add({.prompt = 64, .max_output = 9, .hash_ids = names(1, 64)});
  d.add({.prompt = 64, .max_output = 9, .hash_ids = names(1, 64)});  // skipped once (§2.4)
  d.add({.prompt = 1, .max_output = 9});
  CHECK(d.pass() == "1:64@0 3:1@0 +1 free 16");
  // 0 and 1 take one token each, 2 takes 64, and 3, a generation, is passed over.
  CHECK(d.pass() == "2:64@0 +2 free 13");
  CHECK(d.pass() == "+4 free 12");
}

TEST_CASE("§3.2 first come first served: cut to whole units, no break behind; §3.3: those cut come first") {
  auto c = desk::config(2000);
  c.enable_chunked_prefill = true;
  Desk d(c);
  for (int i = 0; i < 3; ++i) d.add({.prompt = 10, .max_output = 30});
  d.pass();
  d.pass();
  for (const std::int32_t prompt : {5000, 5000, 15}) d.add({.prompt = prompt, .max_output = 5});
  // 8189 are left by three generations: 5000, 3189 cut to 3168, and 15 in the 21 that remain.
  CHECK(d.pass() == "4:3168@0... 3:5000@0 5:15@0 +3 free 1682");
  CHECK(d.pass() == "4:1832@3168 +5 free 1682");
}

TEST_CASE("§3.2 equal progress: a unit each, round by round") {
  auto c = desk::config(2000, 101);
  c.enable_chunked_prefill = true;
  c.tensorrt_llm.equal_progress = true;
  Desk d(c);
  d.add({.prompt = 10, .max_output = 30});
  d.pass();
  for (const std::int32_t prompt : {64, 64, 20}) d.add({.prompt = prompt, .max_output = 5});
  // 100 are left: 32 + 32 + 20, and no second unit fits.
  CHECK(d.pass() == "1:32@0... 2:32@0... 3:20@0 +1 free 1994");
  CHECK(d.pass() == "1:32@32 2:32@32 +2 free 1994");
}

TEST_CASE("§3.2 a context that finds no whole unit waits, a shorter one behind it runs") {
  auto c = desk::config(2000, 40);
  c.enable_chunked_prefill = true;
  c.max_num_seqs = 40;
  Desk d(c);
  for (int i = 0; i < 10; ++i) d.add({.prompt = 1, .max_output = 90});
  d.pass();
  d.pass();
  d.add({.prompt = 50, .max_output = 5});
  CHECK(d.pass() == "+10 free 1990");  // 30 left: no unit of 32
  d.add({.prompt = 30, .max_output = 5});
  CHECK(d.pass() == "11:30@0 +10 free 1989");
}

TEST_CASE("§3.4 the budget is charged before the hit is known, and what it frees is nobody's") {
  auto c = desk::config(2000);
  c.enable_chunked_prefill = true;
  Desk d(c);
  auto shared = names(1, 6000);
  d.add({.prompt = 6000, .max_output = 1, .hash_ids = shared});
  CHECK(d.pass() == "0:6000@0 +0 free 1812");
  CHECK(d.pass() == "+0 free 1812; end 0");
  auto longer = shared;
  for (const std::uint64_t id : names(900'000, 4000)) longer.push_back(id);
  longer.resize(313);
  d.add({.prompt = 10, .max_output = 9});
  d.pass();
  d.add({.prompt = 10000, .max_output = 9, .hash_ids = longer});
  d.add({.prompt = 700, .max_output = 9});
  // 8191 are left: 1 is cut to 8160, which with 6000 found reaches the end; 2 waits though 4160 were freed.
  CHECK(d.pass() == "2:4000@6000 +1 free 1686");
  CHECK(d.pass() == "3:700@0 +2 free 1664");
}

TEST_CASE("§3.4 a chunk behind a hit ends on a block border") {
  auto c = desk::config(2000, 100);
  c.enable_chunked_prefill = true;
  Desk d(c);
  d.add({.prompt = 50, .max_output = 1, .hash_ids = names(1, 50)});
  d.pass();
  d.pass();
  auto longer = names(1, 50);
  longer.resize(7, 77);
  d.add({.prompt = 200, .max_output = 9, .hash_ids = longer});
  // A chunk of 96 is charged; 64 tokens are common by name, 50 were stored: 50 + 96 = 146, floored to 128.
  CHECK(d.pass() == "1:78@50... +0 free 1993");
  CHECK(d.pass() == "1:72@128 +0 free 1993");
}

TEST_CASE(
    "§4.5 a step says what crosses the host link before it, and a hit in host memory computes nothing") {
  auto c = desk::config(8);
  c.offload = {.blocks = 16};
  Desk d(c);
  const auto pass = [&] {
    d.pass();
    return std::pair(d.offloaded(), d.onboarded());
  };
  d.add({.prompt = 128, .max_output = 1, .hash_ids = names(1, 128)});
  CHECK(pass() == std::pair<std::int64_t, std::int64_t>(0, 0));
  pass();
  d.add({.prompt = 220, .max_output = 1});  // four blocks never used, and three of the other's
  CHECK(pass() == std::pair<std::int64_t, std::int64_t>(3, 0));
  pass();
  d.add({.prompt = 130, .max_output = 1, .hash_ids = names(1, 130)});
  // One is found on the device, three come back; they and the tail's block cost four others their place.
  CHECK(pass() == std::pair<std::int64_t, std::int64_t>(4, 3));
  CHECK(d.cached(2) == 128);
  CHECK(d.scheduler().offload_counters().loads == 1);
  CHECK(d.scheduler().offload_counters().stored == 7);
}

namespace {
SchedulerConfig windows(std::int64_t blocks, std::int64_t window_blocks, std::int64_t tokens = 8192) {
  auto c = desk::config(blocks, tokens);
  c.enable_prefix_caching = false;
  c.tensorrt_llm.window = 64;
  c.tensorrt_llm.window_blocks = window_blocks;
  return c;
}
std::int64_t window_free(Desk& d) {
  return dynamic_cast<TensorRtLlmScheduler&>(d.scheduler()).window_free_blocks();
}
}  // namespace

TEST_CASE("§4.1 a window's pool gives a prompt all its blocks, and gets the front back as tokens are added") {
  Desk d(windows(20, 20));
  d.add({.prompt = 200, .max_output = 60});
  CHECK(d.pass() == "0:200@0 +0 free 13");
  CHECK(window_free(d) == 13);
  CHECK(d.pass() == "+1 free 13");  // 201 tokens: 137 are out of the window, four blocks of them whole
  CHECK(window_free(d) == 17);
  for (int tokens = 202; tokens < 224; ++tokens) d.pass();
  CHECK(window_free(d) == 17);
  CHECK(d.pass() == "+1 free 13");  // 224: the fifth
  CHECK(window_free(d) == 18);
  CHECK(d.pass() == "+1 free 12");  // 225 begins a block, in both pools
  CHECK(window_free(d) == 17);
  for (int i = 0; i < 40 && d.scheduler().has_work(); ++i) d.pass();
  CHECK(window_free(d) == 20);
  CHECK(d.scheduler().view().free_blocks == 20);
}

TEST_CASE(
    "§2.1 §2.2 admission asks every window's pool: a window, a batch of tokens, and one for the slide") {
  // 64 + 128 tokens are six blocks, and one more: 7 a request. The first one holds 4 and is owed 3.
  for (const std::int64_t blocks : {13, 14}) {
    Desk d(windows(80, blocks, 128));
    d.add({.prompt = 100, .max_output = 1000});
    d.add({.prompt = 100, .max_output = 1000});
    CHECK(d.pass() == "0:100@0 +0 free 76");
    CHECK(d.pass() == (blocks == 14 ? "1:100@0 +1 free 72" : "+1 free 76"));
  }
  // Once the first one slides it holds two to four blocks and is owed one.
  Desk d(windows(80, 13, 128));
  d.add({.prompt = 100, .max_output = 1000});
  d.add({.prompt = 100, .max_output = 1000});
  std::string line;
  int passes = 0;
  while (line.find("1:100@0") == std::string::npos && ++passes < 1000) line = d.pass();
  CHECK(passes > 2);
  CHECK(passes < 200);
}

// `BlockManager::storeContextBlocks` passes windowed pools over, `KVCacheManager::addSequence` takes the
// least of all pools.
TEST_CASE("§4.3 with several window sizes a prompt is found when it has ended, not while it decodes") {
  auto c = windows(40, 40);
  c.enable_prefix_caching = true;
  Desk d(c);
  const auto ids = desk::names(1, 96);
  d.add({.prompt = 96, .max_output = 6, .hash_ids = ids});
  CHECK(d.pass() == "0:96@0 +0 free 37");
  // No waiting for a prompt under way (`findNewContextBlock` is for one window size): it runs at once.
  d.add({.prompt = 96, .max_output = 1, .hash_ids = ids});
  CHECK(d.pass() == "1:96@0 +1 free 33");
  CHECK(window_free(d) == 34);  // 97 tokens: a block for the last one, one left behind; and 3 of the other
  CHECK(d.pass() == "+1 free 33; end 1");  // max_tokens 1: stored by its release
  d.add({.prompt = 96, .max_output = 1, .hash_ids = ids});
  CHECK(d.pass() == "2:1@95 +1 free 35");  // 95 in both pools
  CHECK(d.cached(2) == 95);
  CHECK(window_free(d) == 34);  // three of 0, and the three that 1 stored: 0 has stored nothing there yet
  for (int i = 0; i < 20 && d.scheduler().has_work(); ++i) d.pass();
  CHECK(window_free(d) == 40);
  CHECK(d.scheduler().view().free_blocks == 40);
}

TEST_CASE("§4.3 what a window's pool gave away is computed again, although the other pool has it") {
  for (const std::int64_t window_blocks : {12, 40}) {
    CAPTURE(window_blocks);
    auto c = windows(200, window_blocks);
    c.enable_prefix_caching = true;
    Desk d(c);
    const auto ids = desk::names(1, 128);
    d.add({.prompt = 128, .max_output = 100, .hash_ids = ids});
    d.pass();
    // Prompts of four blocks one after another: the small pool hands the first one's front out.
    for (std::uint64_t other = 2; other < 6; ++other) {
      d.add({.prompt = 128, .max_output = 4, .hash_ids = desk::names(other, 128)});
      for (int i = 0; i < 8; ++i) d.pass();
    }
    for (int i = 0; i < 200 && d.scheduler().has_work(); ++i) d.pass();
    d.add({.prompt = 128, .max_output = 1, .hash_ids = ids});
    d.pass();
    CHECK(d.cached(5) == (window_blocks == 12 ? 0 : 127));
    for (int i = 0; i < 5 && d.scheduler().has_work(); ++i) d.pass();
    CHECK(window_free(d) == window_blocks);
  }
}

TEST_CASE("§3.2 with a window prompts are cut at 256 tokens") {
  for (const std::int64_t window : {0, 64}) {
    auto c = windows(80, 80, 700);
    c.enable_chunked_prefill = true;
    c.tensorrt_llm.window = window;
    Desk d(c);
    d.add({.prompt = 2000, .max_output = 1});
    CHECK(d.pass() == (window > 0 ? "0:512@0... +0 free 17" : "0:672@0... +0 free 17"));
  }
}

TEST_CASE("§2.3 max utilization pauses for the smaller pool") {
  auto c = windows(40, 8);
  c.tensorrt_llm.max_utilization = true;
  Desk d(c);
  d.add({.prompt = 60, .max_output = 60});
  d.add({.prompt = 100, .max_output = 60});
  CHECK(d.pass() == "0:60@0 +0 free 38");
  CHECK(d.pass() == "1:100@0 +1 free 34");
  CHECK(window_free(d) == 2);
  d.add({.prompt = 90, .max_output = 9});  // three blocks: not there until something is left behind
  CHECK(d.pass() == "+2 free 34");
  CHECK(window_free(d) == 3);  // 1 has 101 tokens, of which a block is out of the window
  CHECK(d.pass() == "2:90@0 +2 free 31");
  CHECK(window_free(d) == 0);
  std::string line;
  int passes = 0;
  while (line.rfind("pause", 0) != 0 && ++passes < 100) line = d.pass();
  CHECK(line.rfind("pause 2", 0) == 0);  // 0 begins its third block at 64
  for (int i = 0; i < 300 && d.scheduler().has_work(); ++i) d.pass();
  CHECK(window_free(d) == 8);
}

TEST_CASE("§2.1 §2.2 max_tokens bounds admission, whatever a request then says") {
  // Both say five tokens. What they asked for decides whether the second one waits for the first.
  for (const std::int32_t limit : {320, 32}) {
    Desk d(desk::config(12));
    d.add({.prompt = 32, .max_output = limit});
    d.add({.prompt = 32, .max_output = limit});
    CHECK(d.pass() == "0:32@0 +0 free 11");
    CHECK(d.pass() == (limit == 320 ? "+1 free 10" : "1:32@0 +1 free 9"));
    d.pass();
    d.pass();
    d.pass();
    d.say_eos(0);
    CHECK(d.pass() == (limit == 320 ? "+1 free 10; end 0" : "+2 free 8; end 0"));
    CHECK(d.pass() == (limit == 320 ? "1:32@0 +0 free 11" : "+1 free 10"));
  }
}
