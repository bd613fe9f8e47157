// vLLM V1's rules on the scheduler alone, pass by pass, small enough to check by hand; what real logs never
// showed among them (../shared/reference/vllm_0_24.md, "Not exercised by these logs"). § = its sections;
// lines are those of tensorrt_llm_desk.h. Blocks of 32 tokens, one of which is the null block; two steps in
// flight.
#include <string>
#include <vector>

#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::passes;
using desk::Rows;

namespace {

// `blocks` that can be used.
SchedulerConfig config(std::int64_t blocks, std::int64_t tokens = 8192) {
  SchedulerConfig c = desk::config(blocks + 1, tokens);
  c.enable_chunked_prefill = true;
  return c;
}

}  // namespace

TEST_CASE(
    "§1.2.1 §1.2.4 a budget of 64: decodes first, a token each; prompts get what is left, in their order") {
  Desk desk(config(100, 64), "vllm-v1");
  desk.add({.prompt = 100, .max_output = 5});
  desk.add({.prompt = 50, .max_output = 5});
  CHECK(passes(desk, 4) == Rows{"0:64@0... +0 free 98",          // 2 of its 4 blocks
                                "0:36@64 1:28@0... +0 free 95",  // 2 more, and 1
                                "1:22@28 +1 free 94", "+2 free 94"});
}

TEST_CASE("§1.2.2 §1.5 a last token in flight: passed over, but it holds blocks and a place a pass longer") {
  SchedulerConfig c = config(100);
  c.max_num_seqs = 1;
  Desk desk(c, "vllm-v1");
  desk.add({.prompt = 32, .max_output = 2});
  desk.add({.prompt = 32, .max_output = 1});
  // Step 1 brings the last token: step 2 is empty, request 1 waits for the place although nothing runs.
  CHECK(passes(desk, 5) == Rows{"0:32@0 +0 free 99", "+1 free 98", "+0 free 98; end 0", "1:32@0 +0 free 99",
                                "+0 free 99; end 1"});
}

TEST_CASE(
    "§1.2.3 the head of the queue does not fit: nobody behind it is tried, nobody is preempted for it") {
  Desk desk(config(10), "vllm-v1");
  desk.add({.prompt = 200, .max_output = 4});  // 7 blocks
  desk.add({.prompt = 128, .max_output = 4});  // 4
  desk.add({.prompt = 32, .max_output = 4});   // 1 would fit
  CHECK(passes(desk, 6) == Rows{"0:200@0 +0 free 3", "+1 free 3", "+1 free 3", "+1 free 3",
                                "+0 free 3; end 0", "1:128@0 2:32@0 +0 free 5"});
}

TEST_CASE("§1.2.3 without chunked prefill a prompt above what is left of the budget ends the loop") {
  SchedulerConfig c = config(100, 128);
  c.enable_chunked_prefill = false;
  Desk desk(c, "vllm-v1");
  desk.add({.prompt = 100, .max_output = 3});
  desk.add({.prompt = 60, .max_output = 3});
  desk.add({.prompt = 20, .max_output = 3});  // 28 are left, but it stands behind
  CHECK(passes(desk, 2) == Rows{"0:100@0 +0 free 96", "1:60@0 2:20@0 +1 free 93"});
}

TEST_CASE(
    "§1.2.2 §1.2.3 long_prefill_token_threshold cuts every chunk of everybody, so prompts share a step") {
  SchedulerConfig c = config(100, 128);
  c.long_prefill_token_threshold = 40;
  Desk desk(c, "vllm-v1");
  desk.add({.prompt = 90, .max_output = 2});
  desk.add({.prompt = 50, .max_output = 2});
  desk.add({.prompt = 20, .max_output = 2});
  CHECK(passes(desk, 3) == Rows{"0:40@0... 1:40@0... 2:20@0 +0 free 95", "0:40@40... 1:10@40 +1 free 94",
                                "0:10@80 +1 free 94; end 2"});
}

TEST_CASE("§1.2.3 watermark: an admission leaves so many blocks free, but not on an idle engine") {
  SchedulerConfig c = config(19);
  c.watermark = 0.25;  // 5 of 20, the null block counted
  Desk desk(c, "vllm-v1");
  desk.add({.prompt = 512, .max_output = 3});  // 16 blocks leave 3: nobody runs yet
  desk.add({.prompt = 64, .max_output = 3});   // 2 would fit
  CHECK(passes(desk, 5) ==
        Rows{"0:512@0 +0 free 3", "+1 free 2", "+1 free 2", "+0 free 2; end 0", "1:64@0 +0 free 17"});
}

TEST_CASE(
    "§2.4 the gate: a whole prompt must fit, hits counted; without scheduler_reserve_full_isl its chunk") {
  for (const bool whole : {true, false}) {
    SchedulerConfig c = config(10, 64);
    c.scheduler_reserve_full_isl = whole;
    Desk desk(c, "vllm-v1");
    desk.add({.prompt = 224, .max_output = 2});  // 7 blocks, in four chunks
    const Rows first = passes(desk, 4);
    CHECK(first.back() == "0:32@192 +0 free 3");
    desk.add({.prompt = 128, .max_output = 2});  // 4 blocks, of which a chunk takes 2
    CHECK(desk.pass() == (whole ? "+1 free 2" : "1:63@0... +1 free 0"));
  }
}

TEST_CASE("§1.3 preemption: the last of the running list, all its blocks at once, and nobody comes in") {
  Desk desk(config(8), "vllm-v1");
  desk.add({.prompt = 127, .max_output = 40});  // 4 blocks, a fifth for its token 129
  desk.add({.prompt = 127, .max_output = 40});  // 4 blocks: the pool is full
  desk.add({.prompt = 20, .max_output = 2});    // 1
  const Rows rows = passes(desk, 4);
  CHECK(rows[0] == "0:127@0 1:127@0 +0 free 0");
  CHECK(rows[1] == "+2 free 0");
  // Request 0 takes a block, of the four that request 1 gave up; request 2 would fit and is not looked at.
  CHECK(rows[2] == "pause 1 +1 free 3");
  // Request 1 stands in front again and needs 5 (127 and the two tokens it had): request 2 waits behind it.
  CHECK(rows[3] == "+1 free 3");
}

TEST_CASE("§1.3 a resumed sequence finds what survived of its own blocks, and computes outputs again too") {
  SchedulerConfig c = config(9);
  Desk desk(c, "vllm-v1");
  desk.add({.prompt = 127, .max_output = 4, .hash_ids = desk::names(1000, 127)});
  desk.add({.prompt = 127, .max_output = 40, .hash_ids = desk::names(2000, 127)});
  const Rows rows = passes(desk, 8);
  CHECK(rows[2] == "pause 1 +1 free 4");
  // Three full blocks of 127 tokens are still there when request 0 has gone, of its 129 tokens 33 are left.
  bool resumed = false;
  for (const std::string& row : rows) resumed |= row.find("1:33@96 ") != std::string::npos;
  CHECK(resumed);
}

TEST_CASE("§1.4 the length test counts prompt and outputs against max_model_len") {
  SchedulerConfig c = config(100);
  c.max_model_len = 40;
  Desk desk(c, "vllm-v1");
  desk.add({.prompt = 38, .max_output = 100});  // 2 outputs make 40
  CHECK(passes(desk, 3) == Rows{"0:38@0 +0 free 98", "+1 free 98", "+0 free 98; end 0"});
}

TEST_CASE(
    "§1.5 an EOS is known one update late: the step behind it holds a slot, and its token is nobody's") {
  Desk desk(config(100), "vllm-v1");
  desk.add({.prompt = 32, .max_output = 50});
  desk.add({.prompt = 32, .max_output = 50});
  Rows rows{desk.pass()};
  desk.say_eos(0);  // its first token
  rows.push_back(desk.pass());
  rows.push_back(desk.pass());
  CHECK(rows == Rows{"0:32@0 1:32@0 +0 free 98", "+2 free 96; end 0", "+1 free 98"});
}

TEST_CASE("§1.4 of one update ends by length and by EOS give their blocks back in running order") {
  Desk desk(config(8), "vllm-v1");
  desk.add({.prompt = 65, .max_output = 3, .hash_ids = desk::names(1000, 65)});   // 2 full blocks and one
  desk.add({.prompt = 65, .max_output = 50, .hash_ids = desk::names(2000, 65)});  // the same
  passes(desk, 3);
  desk.say_eos(1);
  const std::string row = desk.pass();
  CHECK(row.substr(row.find(';')) == "; end 0; end 1");
  desk.pass();
  // Four blank blocks, and the one that came back first of those with content: the second of request 0.
  desk.add({.prompt = 160, .max_output = 1});
  passes(desk, 3);
  desk.add({.prompt = 65, .max_output = 2, .hash_ids = desk::names(2000, 65)});
  desk.pass();
  CHECK(desk.cached(3) == 64);
}
