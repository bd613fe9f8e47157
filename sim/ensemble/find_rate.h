// The highest rate at which a deployment meets its SLO.
#pragma once

#include <functional>
#include <vector>

#include "base/result.h"
#include "sim/costed/run.h"

namespace orrery {

struct RatePoint {
  double rate_factor = 0;     // how many times faster than the workload as described
  double requests_per_s = 0;  // offered
  double attainment = 0;      // share of requests that met every limit
  bool meets = false;
};

struct RateSearch {
  bool found = false;  // false: not even the slowest tried rate meets the SLO (see points)
  RatePoint best;
  std::vector<RatePoint> points;  // in the order tried
};

// Doubles or halves until the answer is bracketed (at most 2^12 either way), then halves the bracket until it
// is narrower than 1 %: at most 12 + 8 runs, whatever the response looks like. Attainment need not be
// monotone in the rate (batching anomalies); the result is a rate that meets the SLO whose 1 % faster
// neighbour does not.
Result<RateSearch> find_rate(const Scenario& scenario, const std::function<bool(std::uint64_t)>& keep_going,
                             const PriceScales& scales = {});

}  // namespace orrery
