// When conversations start. One gap a call, each from its own stream.
#pragma once

#include <cstdint>

#include "base/random.h"
#include "base/time.h"
#include "workloads/generator.h"

namespace orrery {

class ArrivalProcess {
 public:
  // `rate`: mean starts per second (on_off: while on).
  ArrivalProcess(const ArrivalSpec& spec, double rate, std::uint64_t seed);
  SimTime next();  // start of conversation 0, 1, 2, …

 private:
  SimTime next_on_off();
  SimDuration phase_length();

  ArrivalSpec spec_;
  double rate_;
  std::uint64_t seed_;
  std::uint64_t index_ = 0;  // of the next conversation
  SimTime now_;
  std::uint64_t phase_ = 0;  // on_off: even = on, odd = off
  SimTime phase_end_;
};

}  // namespace orrery
