// Strong physical quantities: a wrong unit does not compile. Each is one double; only operations that
// mean something physically exist (bytes ÷ bytes per second = seconds; bytes + flops does not compile).
#pragma once

#include <compare>

#include "base/time.h"

namespace orrery {

template <class Tag>
class Quantity {
 public:
  constexpr Quantity() = default;
  constexpr explicit Quantity(double value) : value_(value) {}
  constexpr double value() const { return value_; }  // in the unit that the tag names
  friend constexpr auto operator<=>(Quantity, Quantity) = default;
  friend constexpr Quantity operator+(Quantity a, Quantity b) { return Quantity(a.value_ + b.value_); }
  friend constexpr Quantity operator-(Quantity a, Quantity b) { return Quantity(a.value_ - b.value_); }
  friend constexpr Quantity operator*(Quantity a, double k) { return Quantity(a.value_ * k); }
  friend constexpr Quantity operator*(double k, Quantity a) { return Quantity(a.value_ * k); }
  friend constexpr Quantity operator/(Quantity a, double k) { return Quantity(a.value_ / k); }
  friend constexpr double operator/(Quantity a, Quantity b) { return a.value_ / b.value_; }
  constexpr Quantity& operator+=(Quantity b) {
    value_ += b.value_;
    return *this;
  }

 private:
  double value_ = 0;
};

using Bytes = Quantity<struct BytesTag>;                    // bytes
using Flops = Quantity<struct FlopsTag>;                    // floating-point (or integer) operations
using Seconds = Quantity<struct SecondsTag>;                // seconds, before they become SimDuration
using BytesPerSecond = Quantity<struct BytesPerSecondTag>;  // bytes per second
using FlopsPerSecond = Quantity<struct FlopsPerSecondTag>;  // operations per second
using Hertz = Quantity<struct HertzTag>;                    // cycles per second
using Watts = Quantity<struct WattsTag>;                    // watts
using UsdPerHour = Quantity<struct UsdPerHourTag>;          // US dollars per GPU and hour

constexpr Seconds operator/(Bytes b, BytesPerSecond r) { return Seconds(b.value() / r.value()); }
constexpr Seconds operator/(Flops f, FlopsPerSecond r) { return Seconds(f.value() / r.value()); }
constexpr Bytes operator*(BytesPerSecond r, Seconds s) { return Bytes(r.value() * s.value()); }
constexpr Flops operator*(FlopsPerSecond r, Seconds s) { return Flops(r.value() * s.value()); }
constexpr SimDuration to_duration(Seconds s) { return duration_from_seconds(s.value()); }

}  // namespace orrery
