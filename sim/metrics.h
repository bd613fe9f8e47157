// Distributions of latencies over runs of any length: exact up to a million values, a log histogram beyond.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sim/results.h"

namespace orrery {

// Nanosecond values with weights. Up to `exact_limit` values (weights counted) percentiles are exact; after
// that values live in logarithmic bins of 2048 per octave, relative error below 0.05 %. Sums stay exact.
class WeightedSamples {
 public:
  static constexpr std::uint64_t exact_limit = 1'000'000;

  void add(std::int64_t value, std::uint64_t weight = 1) {
    if (weight == 0) return;
    count_ += weight;
    __extension__ using Wide = __int128;
    sum_ += static_cast<Wide>(value) * static_cast<Wide>(weight);
    if (value > max_) max_ = value;
    if (bins_.empty()) {
      // A steady batch repeats its gap: runs of one value are one entry.
      if (!exact_.empty() && exact_.back().first == value) {
        exact_.back().second += weight;
      } else {
        exact_.emplace_back(value, weight);
      }
      if (count_ > exact_limit) to_bins();
      return;
    }
    bins_[bin_of(value)] += weight;
  }
  std::uint64_t count() const { return count_; }
  Distribution distribution() const;

  static std::size_t bin_of(std::int64_t value);
  static std::int64_t bin_value(std::size_t bin);

 private:
  void to_bins();

  std::vector<std::pair<std::int64_t, std::uint64_t>> exact_;
  std::vector<std::uint64_t> bins_;
  std::uint64_t count_ = 0;
  __extension__ __int128 sum_ = 0;
  std::int64_t max_ = 0;
};

// Quantities over simulated time in at most 512 equal bins; the bin width doubles when a run outgrows them.
class TimeSeriesRecorder {
 public:
  enum Point : std::uint8_t { arrivals, finished, prefill_tokens, decode_tokens, preemptions, point_count };
  enum Level : std::uint8_t { running, waiting, kv_used, level_count };

  void count(Point what, SimTime at, double amount);
  // `what` had the value `value` from `from` to `to`.
  void hold(Level what, SimTime from, SimTime to, double value);
  TimeSeries series(SimTime start, SimTime end, double instances) const;

 private:
  static constexpr std::size_t bin_limit = 512;
  std::size_t bin_at(SimTime at);

  std::int64_t origin_ = -1;        // the first instant seen: traces need not start at zero
  std::int64_t width_ = 1'000'000;  // 1 ms to begin with
  std::vector<double> points_[point_count];
  std::vector<double> levels_[level_count];  // value × nanoseconds
};

}  // namespace orrery
