// Launching a step kernel by kernel is Python work, and its time varies from step to step: slowly, because
// what slows a core down lasts, and further up than down, because nothing makes a core much faster than it
// is. Without it a simulated tail is too thin. An instance's launches follow a first-order autoregression
// with normal innovations:  z ← ρ·z + √(1 − ρ²)·n,  factor = median · exp(σ·z), with one σ below the median
// and another above it.
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
  struct Spread {
    double median = 1, below = 0, above = 0;  // of the factor; deviations of its logarithm, ≥ 0
    double correlation = 0;                   // of neighbours, in [0, 1)
    friend bool operator==(const Spread&, const Spread&) = default;
  };
  LaunchJitter() = default;  // none: every factor is 1
  // One stream per instance, so that instances added or removed change no other's.
  // `first`: the number of the first one in its deployment.
  LaunchJitter(const Spread& spread, std::uint64_t seed, std::size_t instances, std::size_t first = 0)
      : spread_(spread) {
    if (spread == Spread{}) return;
    for (std::size_t i = 0; i < instances; ++i) {
      RandomStream stream(seed, RandomPurpose::launch_jitter, first + i);
      const double z = stream.normal();  // begins in its stationary distribution
      instances_.push_back({stream, z});
    }
  }

  // Nanoseconds that the next launched step of `instance` takes where the profile's terms add up to `ns`.
  std::int64_t next(std::size_t instance, std::int64_t ns) {
    if (instances_.empty()) return ns;
    State& s = instances_[instance];
    const double rho = spread_.correlation;
    s.z = rho * s.z + std::sqrt(1 - rho * rho) * s.stream.normal();
    const double deviation = s.z < 0 ? spread_.below : spread_.above;
    return round_half_even(static_cast<double>(ns) * spread_.median * det_exp(deviation * s.z));
  }

 private:
  struct State {
    RandomStream stream;
    double z;
  };
  Spread spread_;
  std::vector<State> instances_;
};

}  // namespace orrery
