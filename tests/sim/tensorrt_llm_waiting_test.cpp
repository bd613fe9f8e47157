// TensorRT-LLM's batch waiting, and the order of many equal rows, pass by pass (how to read a line:
// tensorrt_llm_desk.h; sections of ../shared/reference/tensorrt_llm_1_2.md).
#include <algorithm>
#include <numeric>

#include "catch.h"
#include "tensorrt_llm_desk.h"

using namespace orrery;
using desk::Desk;
using desk::passes;
using desk::Rows;

namespace {

SchedulerConfig waiting(std::int64_t iters, double ratio, bool chunks = false) {
  SchedulerConfig c = desk::config(100, 100);
  c.enable_chunked_prefill = chunks;
  c.options.set("batch_wait_timeout_iters", iters);
  c.options.set("batch_wait_max_tokens_ratio", ratio);
  return c;
}

// Prompts as the rows of the second pass have them: behind the first one, whose length is 1.
std::vector<int> order_of(int prompts, bool chunked) {
  SchedulerConfig c = desk::config(4000, chunked ? 32 * prompts : 8192);
  c.enable_chunked_prefill = chunked;
  Desk d(c);
  d.add({.prompt = 1, .max_output = 4});
  d.pass();
  for (int i = 0; i < prompts; ++i) d.add({.prompt = 40, .max_output = 4});
  const std::string line = d.pass();
  std::vector<int> order;
  for (std::size_t at = 0; (at = line.find(':', at)) != std::string::npos; ++at) {
    const std::size_t begin = line.rfind(' ', at) == std::string::npos ? 0 : line.rfind(' ', at) + 1;
    order.push_back(std::stoi(line.substr(begin, at - begin)) - 1);
  }
  return order;
}

}  // namespace

// `_waiting_requests` (pyexecutor/py_executor.py of 1.2.0rc): 0.5 of 100 tokens, two passes.
TEST_CASE("§1.4 prompts beside generations wait for so many passes, or until all have tokens enough") {
  Desk d(waiting(2, 0.5));
  d.add({.prompt = 10, .max_output = 30});
  CHECK(d.pass() == "0:10@0 +0 free 99");  // nobody generates
  d.add({.prompt = 10, .max_output = 30});
  CHECK(passes(d, 3) == Rows{"+1 free 99", "+1 free 99", "1:10@0 +1 free 98"});
  d.add({.prompt = 47, .max_output = 30});  // and two generations: 49 tokens
  CHECK(d.pass() == "+2 free 98");
  d.add({.prompt = 1, .max_output = 30});  // 50
  CHECK(d.pass() == "2:47@0 3:1@0 +2 free 95");
  d.add({.prompt = 10, .max_output = 30});  // the count begins anew
  CHECK(passes(d, 3) == Rows{"+4 free 95", "+4 free 95", "4:10@0 +4 free 94"});
}

TEST_CASE("§1.4 either of the two alone holds nobody up, and what counts of a prompt is all of it") {
  for (const auto& [iters, ratio] : {std::pair<std::int64_t, double>{2, 0}, {0, 0.5}}) {
    Desk d(waiting(iters, ratio));
    d.add({.prompt = 10, .max_output = 30});
    d.pass();
    d.add({.prompt = 10, .max_output = 30});
    CHECK(d.pass() == "1:10@0 +1 free 98");
  }
  Desk d(waiting(2, 1, true));
  d.add({.prompt = 10, .max_output = 30});
  d.pass();
  d.add({.prompt = 120, .max_output = 30});  // its chunk has 96 tokens, with the generation 97 of 100
  CHECK(d.pass() == "1:96@0... +1 free 95");
}

// executor_request_queue.py, `_get_from_request_queue`: behind the first request others are taken in until
// the time is over, which the clock lets pass before the pass.
TEST_CASE("§1.4 with batch_wait_timeout_ms an idle executor takes in all that has come") {
  SchedulerConfig c = desk::config(100);
  c.options.set("batch_wait_timeout_ms", 5.0);
  Desk d(c);
  for (int i = 0; i < 3; ++i) d.add({.prompt = 10, .max_output = 5});
  CHECK(d.pass() == "0:10@0 1:10@0 2:10@0 +0 free 97");
}

// By hand: the ninth of 17 comes first, then both ends change places until they meet.
TEST_CASE("§3.3 up to 16 equal rows keep their order; 17 and more do as libstdc++ sorts them") {
  std::vector<int> sixteen(16);
  std::iota(sixteen.begin(), sixteen.end(), 0);
  CHECK(order_of(16, false) == sixteen);
  CHECK(order_of(17, false) == std::vector<int>{8, 16, 15, 14, 13, 12, 11, 10, 9, 0, 7, 6, 5, 4, 3, 2, 1});
#ifdef __GLIBCXX__
  for (const int n : {18, 33, 47, 63}) {
    std::vector<int> rows(static_cast<std::size_t>(n));
    std::iota(rows.begin(), rows.end(), 0);
    std::sort(rows.begin(), rows.end(), [](int, int) { return false; });
    CHECK(order_of(n, false) == rows);
  }
#endif
}

// 1,279 tokens for 40 prompts of 40: 31 whole ones, and 32 tokens of the next, which the partition swaps with
// the first.
TEST_CASE("§3.3 where prompts are cut, those with more to come are in front, both parts sorted apart") {
  std::vector<int> rest(31);
  std::iota(rest.begin(), rest.end(), 1);
  rest.back() = 0;
  const std::vector<int> order = order_of(40, true);
  REQUIRE(order.size() == 32);
  CHECK(order.front() == 31);
  CHECK(std::is_permutation(order.begin() + 1, order.end(), rest.begin()));
#ifdef __GLIBCXX__
  std::sort(rest.begin(), rest.end(), [](int, int) { return false; });
  CHECK(std::equal(order.begin() + 1, order.end(), rest.begin()));
#endif
}
