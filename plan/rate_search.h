// The highest rate that meets a limit, by bracketing that ends whatever the answers are.
#pragma once

#include <functional>

#include "base/result.h"
#include "sim/costed/scenario.h"

namespace orrery {

constexpr double rate_precision = 1.02;         // the bracket ends this narrow
constexpr int rate_doublings = 12;              // either way: within 4,096 times the guess
constexpr int rate_steps = rate_doublings + 5;  // near a guess of an earlier round they begin small

struct RateBracket {
  bool found = false;  // false: not even the slowest rate that was tried meets it
  double low = 0;      // meets it
  double high = 0;     // does not; 0: every rate that was tried meets it
  int probes = 0;
};

// `meets` of a rate factor. From `guess` outwards in steps that double, until the answer changes (at most
// `rate_steps`), then bisected. Answers that are not monotone leave a rate that meets it beside one, at
// most 2 % faster, that does not.
Result<RateBracket> bracket_rate(double guess, const std::function<Result<bool>(double)>& meets);

// Requests per second of the first `requests` of the workload, as described.
double offered_rate(const Scenario& scenario, std::uint64_t requests);

}  // namespace orrery
