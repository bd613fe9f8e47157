#include "sim/metrics.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace orrery {

namespace {
constexpr int bits_per_octave = 11;  // 2048 bins an octave: width 1/2048, error of the middle below 0.025 %
constexpr std::uint64_t bins_per_octave = std::uint64_t{1} << bits_per_octave;
}  // namespace

std::size_t WeightedSamples::bin_of(std::int64_t value) {
  const auto v = static_cast<std::uint64_t>(value < 0 ? 0 : value);
  if (v < bins_per_octave) return v;  // small values are their own bin
  const int octave = 63 - std::countl_zero(v) - bits_per_octave;
  return static_cast<std::size_t>((static_cast<std::uint64_t>(octave + 1) << bits_per_octave) +
                                  ((v >> octave) - bins_per_octave));
}

std::int64_t WeightedSamples::bin_value(std::size_t bin) {
  if (bin < bins_per_octave) return static_cast<std::int64_t>(bin);
  const std::uint64_t octave = (bin >> bits_per_octave) - 1;
  const std::uint64_t low = (bins_per_octave + (bin & (bins_per_octave - 1))) << octave;
  return static_cast<std::int64_t>(low + ((std::uint64_t{1} << octave) >> 1));
}

void WeightedSamples::to_bins() {
  bins_.assign(bin_of(INT64_MAX) + 1, 0);
  for (const auto& [value, weight] : exact_) bins_[bin_of(value)] += weight;
  exact_.clear();
  exact_.shrink_to_fit();
}

Distribution WeightedSamples::distribution() const {
  Distribution d;
  d.count = count_;
  if (count_ == 0) return d;
  d.mean = static_cast<double>(sum_) / static_cast<double>(count_);
  d.max = max_;
  d.exact = bins_.empty();
  std::vector<std::pair<std::int64_t, std::uint64_t>> sorted = exact_;
  if (d.exact) {
    std::sort(sorted.begin(), sorted.end());
  } else {
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      if (bins_[i] > 0) sorted.emplace_back(bin_value(i), bins_[i]);
    }
    sorted.back().first = max_;
  }
  std::size_t at = 0;
  std::uint64_t before = 0;  // weight of the entries in front of `at`
  // Ranks are asked for in rising order, so one pass serves them all.
  const auto value_at = [&](std::uint64_t rank) {
    while (before + sorted[at].second <= rank) before += sorted[at++].second;
    return std::min(sorted[at].first, max_);
  };
  // Index min(n − 1, ⌊p·n⌋) with p = percent / 100 in integers.
  for (std::uint64_t percent = 0; percent <= 100; ++percent) {
    __extension__ using Wide = unsigned __int128;
    const auto index = static_cast<std::uint64_t>(static_cast<Wide>(count_) * percent / 100);
    d.curve.push_back(value_at(std::min(count_ - 1, index)));
  }
  d.p50 = d.curve[50];
  d.p90 = d.curve[90];
  d.p95 = d.curve[95];
  d.p99 = d.curve[99];
  return d;
}

std::size_t TimeSeriesRecorder::bin_at(SimTime at) {
  if (origin_ < 0) origin_ = std::max<std::int64_t>(0, at.ns());
  const std::int64_t ns = std::max<std::int64_t>(0, at.ns() - origin_);
  const auto halve = [](std::vector<double>& v) {
    for (std::size_t i = 0; i < v.size(); ++i) {
      const double value = v[i];
      if (i % 2 == 0)
        v[i / 2] = value;
      else
        v[i / 2] += value;
    }
    v.resize((v.size() + 1) / 2);
  };
  while (ns / width_ >= static_cast<std::int64_t>(bin_limit)) {
    for (auto& v : points_) halve(v);
    for (auto& v : levels_) halve(v);
    width_ *= 2;
  }
  return static_cast<std::size_t>(ns / width_);
}

void TimeSeriesRecorder::count(Point what, SimTime at, double amount) {
  const std::size_t bin = bin_at(at);
  auto& v = points_[what];
  if (v.size() <= bin) v.resize(bin + 1, 0.0);
  v[bin] += amount;
}

void TimeSeriesRecorder::hold(Level what, SimTime from, SimTime to, double value) {
  if (to <= from || value == 0) return;
  const std::size_t last = bin_at(to - SimDuration(1));
  auto& v = levels_[what];
  if (v.size() <= last) v.resize(last + 1, 0.0);
  std::int64_t begin = std::max(origin_, from.ns());
  for (std::size_t bin = bin_at(from); bin <= last; ++bin) {
    const std::int64_t end = std::min(to.ns(), origin_ + static_cast<std::int64_t>(bin + 1) * width_);
    v[bin] += value * static_cast<double>(end - begin);
    begin = end;
  }
}

TimeSeries TimeSeriesRecorder::series(SimTime start, SimTime end, double instances) const {
  TimeSeries out;
  const std::int64_t origin = std::max<std::int64_t>(0, origin_);
  const std::int64_t first_bin = std::max<std::int64_t>(0, start.ns() - origin) / width_;
  const std::int64_t last_bin =
      std::max(first_bin, std::max<std::int64_t>(0, end.ns() - origin - 1) / width_);
  out.start = SimTime(origin + first_bin * width_);
  out.width = SimDuration(width_);
  const auto bins = static_cast<std::size_t>(last_bin - first_bin + 1);
  const auto slice = [&](const std::vector<double>& v, double scale) {
    std::vector<double> r(bins, 0.0);
    for (std::size_t i = 0; i < bins; ++i) {
      const std::size_t bin = i + static_cast<std::size_t>(first_bin);
      if (bin < v.size()) r[i] = v[bin] * scale;
    }
    return r;
  };
  const double per_second = 1e9 / static_cast<double>(width_), per_bin = 1.0 / static_cast<double>(width_);
  out.arrivals = slice(points_[arrivals], per_second);
  out.finished = slice(points_[finished], per_second);
  out.prefill_tokens = slice(points_[prefill_tokens], per_second);
  out.decode_tokens = slice(points_[decode_tokens], per_second);
  out.preemptions = slice(points_[preemptions], per_second);
  out.running = slice(levels_[running], per_bin);
  out.waiting = slice(levels_[waiting], per_bin);
  out.kv_utilization = slice(levels_[kv_used], per_bin / instances);
  return out;
}

}  // namespace orrery
