// One small trace for each engine on which the other two provably do something else, row by row, for the rule
// that is named (sglang_0_5.md, vllm_0_24.md and tensorrt_llm_1_2.md of ../shared/reference). Blocks of 32
// tokens; the rows are those of tensorrt_llm_desk.h. What follows from preemption is in
// tensorrt_llm_contrast_test.cpp.
#include <string>
#include <vector>

#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::passes;
using desk::Rows;

namespace {

// vLLM counts its null block.
SchedulerConfig config(const char* scheduler, std::int64_t blocks) {
  SchedulerConfig c = desk::config(std::string(scheduler) == "vllm-v1" ? blocks + 1 : blocks);
  c.enable_chunked_prefill = true;
  return c;
}

// A prompt comes while another request decodes.
Rows prompt_beside_decode(const char* scheduler) {
  Desk desk(config(scheduler, 300), scheduler);
  desk.add({.prompt = 100, .max_output = 8});
  Rows rows = passes(desk, 2);
  desk.add({.prompt = 200, .max_output = 4});
  for (const std::string& row : passes(desk, 3)) rows.push_back(row);
  return rows;
}

// Three prompts of 5,000 tokens at an idle engine with a budget of 8,192.
Rows three_long_prompts(const char* scheduler) {
  Desk desk(config(scheduler, 1000), scheduler);
  for (int i = 0; i < 3; ++i) desk.add({.prompt = 5000, .max_output = 3});
  return passes(desk, 3);
}

// Seventeen blocks; the first request needs fifteen to the end, the second, which comes later, three.
Rows second_may_not_fit(const char* scheduler) {
  Desk desk(config(scheduler, 17), scheduler);
  desk.add({.prompt = 64, .max_output = 400});
  Rows rows = passes(desk, 2);
  desk.add({.prompt = 64, .max_output = 32});
  for (const std::string& row : passes(desk, 2)) rows.push_back(row);
  return rows;
}

}  // namespace

// sglang_0_5.md §1.4: whoever may prefill does, alone; who decodes waits. vllm_0_24.md §1.2 and
// tensorrt_llm_1_2.md §3.1: decodes take their place in the batch first, prompts the rest of the budget.
TEST_CASE("SGLang's trace: a prompt runs alone, where the others decode beside it") {
  CHECK(prompt_beside_decode("sglang") ==
        Rows{"0:100@0 +0 free 296", "+1 free 296", "1:200@0 +0 free 289", "+2 free 289", "+2 free 289"});
  CHECK(prompt_beside_decode("vllm-v1") ==
        Rows{"0:100@0 +0 free 296", "+1 free 296", "1:200@0 +1 free 289", "+2 free 289", "+2 free 289"});
  CHECK(prompt_beside_decode("tensorrt-llm") == prompt_beside_decode("vllm-v1"));
}

// vllm_0_24.md §1.2: the second prompt gets what the budget leaves, to the token, and the next step runs its
// rest, the third and the first one's decode together. sglang_0_5.md §2.6: chunks end at a page, 99 of 32;
// the decode waits. tensorrt_llm_1_2.md §1.4: an idle executor takes one request of a burst; the rest joins
// pass 2.
TEST_CASE("vLLM's trace: the budget is filled to the token, decodes ride along") {
  CHECK(three_long_prompts("vllm-v1") ==
        Rows{"0:5000@0 1:3192@0... +0 free 743", "1:1808@3192 2:5000@0 +1 free 529", "+3 free 529"});
  CHECK(three_long_prompts("sglang") ==
        Rows{"0:5000@0 1:3168@0... +0 free 744", "1:1832@3168 2:5000@0 +0 free 529", "+3 free 529"});
  CHECK(three_long_prompts("tensorrt-llm") ==
        Rows{"0:5000@0 +0 free 843", "2:3168@0... 1:5000@0 +1 free 529", "2:1832@3168 +2 free 529"});
}

// tensorrt_llm_1_2.md §2.2: fifteen of seventeen blocks are the first one's to the end, the second needs
// three and waits. vllm_0_24.md §1.2: blocks for its prompt are there. sglang_0_5.md §2.3, §2.10: of the
// first one's 398 remaining outputs 0.7 are reckoned, so 64 + 32 and a page are below 544 − 96 − 279.
TEST_CASE("TensorRT-LLM's trace: nobody enters who might not reach the end, where the others admit") {
  CHECK(second_may_not_fit("tensorrt-llm") ==
        Rows{"0:64@0 +0 free 15", "+1 free 14", "+1 free 14", "+1 free 14"});
  CHECK(second_may_not_fit("vllm-v1") ==
        Rows{"0:64@0 +0 free 15", "+1 free 14", "1:64@0 +1 free 12", "+2 free 11"});
  CHECK(second_may_not_fit("sglang") ==
        Rows{"0:64@0 +0 free 15", "+1 free 14", "1:64@0 +0 free 12", "+2 free 11"});
}
