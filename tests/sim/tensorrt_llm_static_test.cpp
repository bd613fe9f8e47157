// STATIC_BATCH of TensorRT-LLM 1.2 (§2.2 of ../shared/reference/tensorrt_llm_1_2.md). How to read a line:
// tensorrt_llm_desk.h.
#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::names;

// capacityScheduler.cpp, `GuaranteedNoEvictScheduler<StaticBatchScheduling>`.
TEST_CASE("§2.2 STATIC_BATCH takes nobody in beside generations, and skips nobody for a shared block") {
  for (const bool fixed : {false, true}) {
    auto c = desk::config(100);
    if (fixed) c.options.set("static_batch", true);
    Desk d(c);
    d.add({.prompt = 64, .max_output = 5});
    d.add({.prompt = 64, .max_output = 5, .hash_ids = names(1, 64)});
    d.add({.prompt = 64, .max_output = 5, .hash_ids = names(1, 64)});
    CHECK(d.pass() == "0:64@0 +0 free 98");
    if (!fixed) {
      CHECK(d.pass() == "1:64@0 +1 free 95");  // 2 would compute what 1 does (§2.4)
      continue;
    }
    std::string row = d.pass();
    int decodes = 0;
    for (; row.find(":64@0") == std::string::npos; row = d.pass()) decodes += row.find("+1") == 0 ? 1 : 0;
    CHECK(decodes == 4);
    CHECK(row.find("1:64@0 2:64@0 +0") == 0);
  }
}
