#include "catch.h"

#include "support.h"

using namespace orrery;
using namespace orrery::test;

TEST_CASE("a vLLM benchmark result gives its requests in order of time (fixture)") {
  const Read read = read_trace(fixture("vllm_bench.json"));
  REQUIRE(read.error == "");
  REQUIRE(read.requests.size() == 3);
  CHECK(read.requests[0].prompt_tokens == 100);
  CHECK(read.requests[1].prompt_tokens == 300);
  CHECK(read.requests[1].arrival == SimTime(500'000'000));
  CHECK(read.requests[1].index == 1);
  CHECK(read.requests[2].output_tokens == 20);
}

TEST_CASE("a vLLM benchmark result without time stamps needs an infinite rate") {
  const TempFolder folder;
  const std::string lists = R"("input_lens": [5, 6], "output_lens": [7, 8]})";
  const Read unknown = read_trace(folder.write("a.json", R"({"request_rate": 4.0, )" + lists));
  CHECK(unknown.key == "start_times");
  const Read burst = read_trace(folder.write("b.json", R"({"request_rate": "inf", )" + lists));
  REQUIRE(burst.error == "");
  CHECK(burst.requests.size() == 2);
  const Read failed =
      read_trace(folder.write("c.json", R"({"request_rate": "inf", "input_lens": [5], "output_lens": [0]})"));
  CHECK(failed.key == "output_lens");
}
