// The median of timings and how sure it is, without assuming anything of their distribution: the interval
// between two order statistics covers the median with a probability that is binomial whatever the noise is.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery::calibrate {

struct MedianInterval {
  double median = 0, low = 0, high = 0;
  // Half of the interval over the median; infinite below seven samples, which cannot give the interval.
  double spread = 0;
};

// A measurement that stops when its interval is narrow looks several times, and each look is a chance to stop
// on a lucky one. Each look therefore asks for 98 %; the simulation in tests/calibrate/median_test.cpp shows
// that at least 95 % of the intervals that stop hold the true median.
constexpr double look_confidence = 0.98;

MedianInterval median_interval(std::vector<double> samples, double confidence = look_confidence);

// Largest r with P(fewer than r of n fair coins show heads) ≤ (1 − confidence)/2: the interval reaches from
// the r-th smallest to the r-th largest sample. Zero when n is too small.
std::int64_t interval_rank(std::int64_t n, double confidence);

}  // namespace orrery::calibrate
