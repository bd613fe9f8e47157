// Where vLLM V1 and SGLang decide differently on the same requests, step by step, each for the reason that
// its rule states.
#include "catch.h"
#include "world.h"

using namespace orrery;

namespace {

struct Steps final : RunObserver {
  std::vector<StepRecord> all;
  void on_step(const StepRecord& s) override { all.push_back(s); }
};

struct Seen {
  std::vector<StepRecord> steps;
  std::vector<RequestRecord> requests;
};

Seen see(const char* scheduler, const std::vector<TraceRequest>& requests) {
  world::World w;
  w.scheduler = scheduler;
  w.config.stretches = false;
  if (w.scheduler == std::string("sglang")) {
    w.config.block_size = 1;
    w.config.num_gpu_blocks = 800000;
  }
  Steps steps;
  world::Records records;
  w.observer = &steps;
  w.sink = &records;
  world::run(w, requests);
  return {steps.all, records.all};
}

}  // namespace

TEST_CASE("golden: three prompts of 5000 under 8192 tokens a step") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 3; ++i) requests.push_back(world::request(i, 0, 5000, 3));
  const Seen vllm = see("vllm-v1", requests), sglang = see("sglang", requests);
  // Both fill the first step alike.
  for (const Seen* s : {&vllm, &sglang}) {
    CHECK(s->steps[0].prefill_tokens == 8192);
    CHECK(s->steps[0].decode_sequences == 0);
    CHECK(s->steps[1].prefill_tokens == 1808 + 5000);
  }
  // vllm_0_24.md §1.2: running first, so that 0 decodes beside the prompts. sglang_0_5.md §1.4 step 5: a
  // prefill batch wins and runs alone; 0 waits a step.
  CHECK(vllm.steps[1].decode_sequences == 1);
  CHECK(sglang.steps[1].decode_sequences == 0);
  CHECK(vllm.steps[2].decode_sequences == 3);
  CHECK(sglang.steps[2].decode_sequences == 3);
  CHECK(vllm.steps[3].decode_sequences == 2);  // 0 had a step's lead
  CHECK(sglang.steps[3].decode_sequences == 3);
  CHECK(vllm.steps.size() == 4);
  CHECK(sglang.steps.size() == 4);
}

TEST_CASE("golden: two equal prompts that arrive together") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 2; ++i) {
    requests.push_back(world::request(i, 0, 96, 4));
    requests.back().hash_ids = {42};
  }
  const Seen vllm = see("vllm-v1", requests), sglang = see("sglang", requests);
  // vllm_0_24.md §2.3: blocks are visible at schedule time, in the same step. sglang_0_5.md §2.7: a prompt is
  // in the tree when its result was processed.
  CHECK(vllm.steps[0].prefill_tokens == 96 + 16);
  CHECK(vllm.requests[1].cached_tokens == 80);
  CHECK(sglang.steps[0].prefill_tokens == 2 * 96);
  CHECK(sglang.requests[1].cached_tokens == 0);
}

TEST_CASE("golden: the same prompt later: whole blocks against single tokens") {
  std::vector<TraceRequest> requests;
  for (std::uint64_t i = 0; i < 2; ++i) {
    requests.push_back(world::request(i, static_cast<double>(i), 96, 4));
    requests.back().hash_ids = {42};
  }
  CHECK(see("vllm-v1", requests).requests[1].cached_tokens == 80);
  CHECK(see("sglang", requests).requests[1].cached_tokens == 95);
}
