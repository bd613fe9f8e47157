// Simulated time: 64-bit integer nanoseconds, and the one place where seconds become nanoseconds.
//
// Floating-point time needs epsilons and lets equal instants differ; an integer clock needs neither.
// 2^63 ns are 292 years, so overflow is not a practical concern for any workload.
#pragma once

#include <cmath>
#include <compare>
#include <cstdint>

#include "base/check.h"

namespace orrery {

// A length of time in nanoseconds. May be negative as an intermediate result of a subtraction.
class SimDuration {
 public:
  constexpr SimDuration() = default;
  constexpr explicit SimDuration(std::int64_t nanoseconds) : ns_(nanoseconds) {}
  constexpr std::int64_t ns() const { return ns_; }
  constexpr double seconds() const { return static_cast<double>(ns_) * 1e-9; }
  constexpr double milliseconds() const { return static_cast<double>(ns_) * 1e-6; }
  constexpr double microseconds() const { return static_cast<double>(ns_) * 1e-3; }
  friend constexpr auto operator<=>(SimDuration, SimDuration) = default;
  friend constexpr SimDuration operator+(SimDuration a, SimDuration b) { return SimDuration(a.ns_ + b.ns_); }
  friend constexpr SimDuration operator-(SimDuration a, SimDuration b) { return SimDuration(a.ns_ - b.ns_); }
  friend constexpr SimDuration operator*(SimDuration a, std::int64_t n) { return SimDuration(a.ns_ * n); }
  constexpr SimDuration& operator+=(SimDuration b) {
    ns_ += b.ns_;
    return *this;
  }

 private:
  std::int64_t ns_ = 0;
};

// An instant, counted from the start of the run.
class SimTime {
 public:
  constexpr SimTime() = default;
  constexpr explicit SimTime(std::int64_t nanoseconds) : ns_(nanoseconds) {}
  static constexpr SimTime never() { return SimTime(INT64_MAX); }
  constexpr bool is_never() const { return ns_ == INT64_MAX; }
  constexpr std::int64_t ns() const { return ns_; }
  constexpr double seconds() const { return static_cast<double>(ns_) * 1e-9; }
  friend constexpr auto operator<=>(SimTime, SimTime) = default;
  friend constexpr SimTime operator+(SimTime t, SimDuration d) { return SimTime(t.ns_ + d.ns()); }
  friend constexpr SimTime operator-(SimTime t, SimDuration d) { return SimTime(t.ns_ - d.ns()); }
  friend constexpr SimDuration operator-(SimTime a, SimTime b) { return SimDuration(a.ns_ - b.ns_); }
  constexpr SimTime& operator+=(SimDuration d) {
    ns_ += d.ns();
    return *this;
  }

 private:
  std::int64_t ns_ = 0;
};

constexpr SimTime later(SimTime a, SimTime b) { return a < b ? b : a; }
constexpr SimTime earlier(SimTime a, SimTime b) { return a < b ? a : b; }

// The only conversion from a real number to integer nanoseconds (rule D1): round half to even. Splitting
// off the fraction is exact and, unlike std::nearbyint, does not depend on the rounding mode set by
// somebody else. Precondition: finite and |nanoseconds| < 4.6e18, just below 2^62.
constexpr std::int64_t round_half_even(double x) {
  ORRERY_CHECK(x == x && x < 4.6e18 && x > -4.6e18, "a duration must be finite");
  const double magnitude = x < 0 ? -x : x;
  if (magnitude >= 4503599627370496.0) return static_cast<std::int64_t>(x);  // 2^52: already whole
  const auto floor_part = static_cast<std::int64_t>(magnitude);
  const double rest = magnitude - static_cast<double>(floor_part);
  std::int64_t rounded = floor_part;
  if (rest > 0.5 || (rest == 0.5 && (floor_part & 1) != 0)) ++rounded;
  return x < 0 ? -rounded : rounded;
}
constexpr SimDuration duration_from_seconds(double s) { return SimDuration(round_half_even(s * 1e9)); }
constexpr SimDuration duration_from_nanoseconds(double ns) { return SimDuration(round_half_even(ns)); }
constexpr SimDuration microseconds(std::int64_t us) { return SimDuration(us * 1000); }
constexpr SimDuration milliseconds(std::int64_t ms) { return SimDuration(ms * 1000000); }
constexpr SimDuration seconds(std::int64_t s) { return SimDuration(s * 1000000000); }

}  // namespace orrery
