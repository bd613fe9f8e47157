#include "base/statistics.h"

#include <cmath>

#include "base/check.h"

namespace orrery {

double linear_percentile(const std::vector<double>& sorted, double p) {
  ORRERY_CHECK(!sorted.empty() && p >= 0 && p <= 100, "a percentile of something");
  const double position = p / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto i = static_cast<std::size_t>(position);
  if (i + 1 >= sorted.size()) return sorted.back();
  return sorted[i] + (position - static_cast<double>(i)) * (sorted[i + 1] - sorted[i]);
}

double mean_of(const std::vector<double>& values) {
  ORRERY_CHECK(!values.empty(), "a mean of something");
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

double deviation_of(const std::vector<double>& values) {
  const double mean = mean_of(values);
  double sum = 0;
  for (const double v : values) sum += (v - mean) * (v - mean);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

}  // namespace orrery
