#include "plan/rate_search.h"

#include <algorithm>

namespace orrery {

Result<RateBracket> bracket_rate(double guess, const std::function<Result<bool>(double)>& meets) {
  RateBracket out;
  const auto probe = [&](double factor) -> Result<bool> {
    ++out.probes;
    ORRERY_TRY(good, meets(factor));
    if (good) out.found = true;
    (good ? out.low : out.high) = factor;
    return good;
  };
  ORRERY_TRY(first, probe(guess));
  // Near the guess of an earlier round the answer is close: 1.05, 1.10, 1.22, 1.48, then doublings.
  const bool far = guess == 1;
  double step = far ? 2 : 1.05;
  bool bracketed = false;
  for (int i = 0; i < (far ? rate_doublings : rate_steps) && !bracketed; ++i) {
    const double next = first ? out.low * step : out.high / step;
    ORRERY_TRY(good, probe(next));
    bracketed = good != first;
    step = std::min(2.0, step * step);
  }
  if (!bracketed) {
    if (first) out.high = 0;
    return out;
  }
  while (out.high / out.low > rate_precision) {
    const auto middle = probe(0.5 * (out.low + out.high));
    if (!middle.ok()) return middle.errors();
  }
  return out;
}

double offered_rate(const Scenario& scenario, std::uint64_t requests) {
  const auto& all = *scenario.workload.requests;
  if (requests < 2 || all.size() < 2) return 0;
  const std::size_t last = std::min<std::size_t>(static_cast<std::size_t>(requests), all.size()) - 1;
  const double span = (all[last].arrival - all.front().arrival).seconds();
  return span > 0 ? static_cast<double>(last) / span : 0;
}

}  // namespace orrery
