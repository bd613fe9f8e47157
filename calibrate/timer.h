// The wall clock of a calibration, behind an interface so that tests need not wait.
#pragma once

#include <string>

namespace orrery::calibrate {

class Timer {
 public:
  virtual ~Timer() = default;
  virtual double seconds() = 0;  // monotonic
  virtual void pause(double seconds) = 0;
  virtual std::string date() = 0;  // "2026-11-25", UTC
};

class WallTimer : public Timer {
 public:
  double seconds() override;
  void pause(double seconds) override;
  std::string date() override;
};

// Seconds since this process was started: what a budget has already lost to loading. 0 where nobody says.
double process_age();

}  // namespace orrery::calibrate
