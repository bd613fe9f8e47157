#include "workloads/generators/length_sampler.h"

#include <algorithm>
#include <cmath>

#include "base/det_math.h"
#include "base/time.h"

namespace orrery {

LengthSampler::LengthSampler(const LengthSpec& spec) : spec_(spec) {
  if (spec_.kind != LengthSpec::Kind::log_normal) return;
  // A log-normal length with mean m and coefficient of variation c: σ² = log(1 + c²), µ = log m − σ²/2.
  const double variance = det_log1p(spec_.cv * spec_.cv);
  sigma_ = std::sqrt(variance);
  mu_ = det_log(spec_.mean) - variance / 2;
}

std::int32_t LengthSampler::draw(RandomStream& stream) const {
  double length = spec_.value;
  switch (spec_.kind) {
    case LengthSpec::Kind::fixed: break;
    case LengthSpec::Kind::log_normal: length = stream.log_normal(mu_, sigma_); break;
    case LengthSpec::Kind::uniform: {
      // Every whole number of [low, high] is equally likely.
      const double low = std::ceil(spec_.low);
      const auto count = static_cast<std::uint64_t>(std::floor(spec_.high) - low) + 1;
      length = low + static_cast<double>(stream.below(count));
      break;
    }
    case LengthSpec::Kind::empirical: {
      const double position = stream.uniform() * static_cast<double>(spec_.quantiles.size() - 1);
      const auto left = static_cast<std::size_t>(position);
      const double share = position - static_cast<double>(left);
      length = spec_.quantiles[left] + share * (spec_.quantiles[left + 1] - spec_.quantiles[left]);
      break;
    }
  }
  const double bounded = std::clamp(length, std::max(1.0, spec_.low), spec_.high);
  return static_cast<std::int32_t>(round_half_even(bounded));
}

}  // namespace orrery
