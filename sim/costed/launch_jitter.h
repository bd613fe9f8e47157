// Launching a step kernel by kernel is Python work, and its time varies from step to step: slowly, because
// what slows a core down lasts. Without it a simulated tail is too thin. log(factor) of an instance's
// launches is a first-order autoregression with normal innovations:  z ← ρ·z + √(1 − ρ²)·n,  factor =
// exp(σ·z), median 1.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/det_math.h"
#include "base/random.h"
#include "base/time.h"

namespace orrery {

class LaunchJitter {
 public:
  LaunchJitter() = default;  // none: every factor is 1
  // σ ≥ 0 of log(factor); correlation ρ of neighbours in [0, 1). One stream per instance, so that instances
  // added or removed change no other's.
  LaunchJitter(double deviation, double correlation, std::uint64_t seed, std::size_t instances)
      : deviation_(deviation), correlation_(correlation) {
    if (deviation_ <= 0) return;
    for (std::size_t i = 0; i < instances; ++i) {
      RandomStream stream(seed, RandomPurpose::launch_jitter, i);
      const double z = stream.normal();  // begins in its stationary distribution
      instances_.push_back({stream, z});
    }
  }

  // Nanoseconds that the next launched step of `instance` takes where the profile's median is `median`.
  std::int64_t next(std::size_t instance, std::int64_t median) {
    if (instances_.empty()) return median;
    State& s = instances_[instance];
    s.z = correlation_ * s.z + std::sqrt(1 - correlation_ * correlation_) * s.stream.normal();
    return round_half_even(static_cast<double>(median) * det_exp(deviation_ * s.z));
  }

 private:
  struct State {
    RandomStream stream;
    double z;
  };
  double deviation_ = 0, correlation_ = 0;
  std::vector<State> instances_;
};

}  // namespace orrery
