// The same two requests under vLLM V1 and under TensorRT-LLM 1.2, step by step: where the traces part, the
// rule that parts them is named. Eight usable blocks of 32 tokens; each request is 64 tokens of prompt and
// may ask for 100 more, so it fills 6 blocks in the end.
#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;

TEST_CASE(
    "vLLM shares the pool and preempts; TensorRT-LLM reserves to the end and lets the second one wait") {
  auto vllm_config = desk::config(9);  // the null block is counted
  vllm_config.enable_chunked_prefill = true;
  Desk vllm(vllm_config, "vllm-v1"), trt(desk::config(8));
  for (Desk* d : {&vllm, &trt}) {
    for (int i = 0; i < 2; ++i) d->add({.prompt = 64, .max_output = 100});
  }
  // vllm_0_24.md §1.2: both are admitted, blocks for their prompts suffice. tensorrt_llm_1_2.md §1.4: an idle
  // executor fetches one; §2.2: 6 of 8 blocks are its own to the end, so the second (6 more) is not admitted.
  CHECK(vllm.pass() == "0:64@0 1:64@0 +0 free 4");
  CHECK(trt.pass() == "0:64@0 +0 free 6");
  for (int step = 1; step < 33; ++step) {  // third blocks
    CHECK(vllm.pass() == "+2 free 2");
    CHECK(trt.pass() == "+1 free 5");
  }
  for (int step = 33; step < 65; ++step) {  // fourth blocks
    CHECK(vllm.pass() == "+2 free 0");
    CHECK(trt.pass() == "+1 free 4");
  }
  // vllm_0_24.md §1.2 rule 2: a decode without a block preempts the tail of the running list.
  // tensorrt_llm_1_2.md §2.2: never pauses.
  CHECK(vllm.pass() == "pause 1 +1 free 3");
  CHECK(trt.pass() == "+1 free 3");
  for (int step = 66; step < 97; ++step) {
    CHECK(vllm.pass() == "+1 free 3");
    CHECK(trt.pass() == "+1 free 3");
  }
  for (int step = 97; step < 100; ++step) {  // sixth blocks: one is left to the head of vLLM's queue, not two
    CHECK(vllm.pass() == "+1 free 2");
    CHECK(trt.pass() == "+1 free 2");
  }
  // Both know the last token is in flight and do not schedule it again (§1.5, §1.2); both keep its blocks.
  CHECK(vllm.pass() == "+0 free 2; end 0");
  CHECK(trt.pass() == "+0 free 2; end 0");
  // vLLM re-computes: of 1's 129 tokens three blocks had a hash, and the first request took the last of
  // these. TensorRT-LLM begins the second request.
  CHECK(vllm.pass() == "1:65@64 +0 free 3");
  CHECK(trt.pass() == "1:64@0 +0 free 6");
}
