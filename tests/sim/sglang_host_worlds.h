// Random worlds of SGLang with KV in host memory: requests that share streams, passes between them, copies
// that end late.
#pragma once

#include "base/random.h"
#include "sglang_driver.h"

namespace orrery::sglang_test {

inline std::int64_t pick(RandomStream& r, std::int64_t low, std::int64_t high) {
  return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
}

// 25 requests with prompts of up to `longest` tokens, run to the end: each one taken in ends once.
inline void run_world(Driver& d, RandomStream& r, std::int64_t longest) {
  d.acceptance.accepts = static_cast<std::int32_t>(pick(r, 0, 2));
  std::size_t added = 0;
  for (int i = 0; i < 25; ++i) {
    const auto length = static_cast<std::int32_t>(pick(r, 1, longest)),
               output = static_cast<std::int32_t>(pick(r, 1, 80));
    if (d.add({.prompt = length, .max_output = output, .stream = static_cast<std::uint64_t>(pick(r, 1, 6))}))
      ++added;
    for (std::int64_t passes = pick(r, 0, 40); passes-- > 0 && d.scheduler.has_work();) {
      d.pass();
      if (passes % 3 == 0) d.finish_copies();
    }
  }
  for (int n = 0; d.scheduler.has_work() && n < 20000; ++n) {
    d.pass();
    d.finish_copies();
  }
  d.finish_copies();
  REQUIRE(d.ended.size() + d.aborted.size() == added);
}

}  // namespace orrery::sglang_test
