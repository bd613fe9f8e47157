#include "calibrate/median.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery::calibrate {

std::int64_t interval_rank(std::int64_t n, double confidence) {
  const double tail = (1 - confidence) / 2;
  // log2 of one term of the binomial, added up from the left; in logarithms, since 2^−n underflows early.
  double log_term = -static_cast<double>(n) * det_log(2), sum = 0;
  for (std::int64_t r = 0; r < n; ++r) {
    sum += det_exp(log_term);
    if (sum > tail) return r;
    log_term += det_log(static_cast<double>(n - r)) - det_log(static_cast<double>(r + 1));
  }
  return 0;
}

MedianInterval median_interval(std::vector<double> samples, double confidence) {
  ORRERY_CHECK(!samples.empty(), "a median needs a sample");
  std::sort(samples.begin(), samples.end());
  const std::size_t n = samples.size();
  MedianInterval out;
  out.median = n % 2 == 1 ? samples[n / 2] : (samples[n / 2 - 1] + samples[n / 2]) / 2;
  const std::int64_t rank = interval_rank(static_cast<std::int64_t>(n), confidence);
  out.low = samples.front();
  out.high = samples.back();
  out.spread = std::numeric_limits<double>::infinity();
  if (rank < 1 || !(out.median > 0)) return out;
  out.low = samples[static_cast<std::size_t>(rank - 1)];
  out.high = samples[n - static_cast<std::size_t>(rank)];
  out.spread = (out.high - out.low) / (2 * out.median);
  return out;
}

}  // namespace orrery::calibrate
