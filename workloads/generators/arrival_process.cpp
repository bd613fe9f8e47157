#include "workloads/generators/arrival_process.h"

namespace orrery {

namespace {

// Phases and conversations are counted separately; their streams must not meet.
constexpr std::uint64_t kPhaseEntities = std::uint64_t{1} << 63;

}  // namespace

ArrivalProcess::ArrivalProcess(const ArrivalSpec& spec, double rate, std::uint64_t seed)
    : spec_(spec), rate_(rate), seed_(seed) {
  if (spec_.kind == ArrivalSpec::Kind::on_off) phase_end_ = SimTime() + phase_length();
}

SimTime ArrivalProcess::next() {
  const std::uint64_t index = index_++;
  switch (spec_.kind) {
    case ArrivalSpec::Kind::fixed:
      // From the index, so that rounding does not add up.
      return SimTime() + duration_from_seconds(static_cast<double>(index) / rate_);
    case ArrivalSpec::Kind::poisson: {
      RandomStream stream(seed_, RandomPurpose::arrivals, index);
      return now_ += duration_from_seconds(stream.exponential(1.0 / rate_));
    }
    case ArrivalSpec::Kind::gamma: {
      // Gamma gaps of shape 1/cv² and scale cv²/rate have mean 1/rate and coefficient of variation cv.
      RandomStream stream(seed_, RandomPurpose::arrivals, index);
      const double squared = spec_.cv * spec_.cv;
      return now_ += duration_from_seconds(stream.gamma(1.0 / squared, squared / rate_));
    }
    case ArrivalSpec::Kind::on_off: break;
  }
  --index_;
  return next_on_off();
}

// An interrupted Poisson process: the exponential gap is spent in on-phases only.
SimTime ArrivalProcess::next_on_off() {
  RandomStream stream(seed_, RandomPurpose::arrivals, index_++);
  SimDuration left = duration_from_seconds(stream.exponential(1.0 / rate_));
  while (true) {
    const bool on = phase_ % 2 == 0;
    if (on && now_ + left < phase_end_) return now_ += left;
    if (on) left = left - (phase_end_ - now_);
    now_ = phase_end_;
    ++phase_;
    phase_end_ = now_ + phase_length();
  }
}

SimDuration ArrivalProcess::phase_length() {
  RandomStream stream(seed_, RandomPurpose::arrivals, kPhaseEntities + phase_);
  return duration_from_seconds(stream.exponential(phase_ % 2 == 0 ? spec_.on_s : spec_.off_s));
}

}  // namespace orrery
