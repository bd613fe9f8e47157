// Time that really passes. What is read is the instant that was waited for, not the later one at which the
// host woke up: a late host does not move what follows, it is late for it as well and catches up. How late it
// was is measured.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>

#include "sim/clock.h"
#include "sim/metrics.h"

namespace orrery {

class WallClock final : public Clock {
 public:
  // Time 0 is now.
  WallClock() : start_(std::chrono::steady_clock::now()) {}

  void restart() { start_ = std::chrono::steady_clock::now(); }  // before anybody asks
  SimTime wait_until(SimTime deadline) override;
  // From any thread: time since the start; something has arrived at `at`, so that waiting ends; nobody waits
  // any more, and what is left runs as fast as it can.
  SimTime now() const { return SimTime((std::chrono::steady_clock::now() - start_).count()); }
  std::chrono::steady_clock::time_point point(SimTime at) const {
    return start_ + std::chrono::nanoseconds(at.ns());
  }
  // Waits without sleeping: the caller's core keeps its caches and its speed.
  void stay_awake() { awake_ = true; }
  void wake(SimTime at);
  void release();
  // Asked now and then while the loop waits; true releases the clock. Set before anybody waits.
  void watch(std::function<bool()> stop) { stop_ = std::move(stop); }
  // How late the host was for what it waited for, or should have; asked when nobody waits.
  Distribution lateness() const { return lateness_.distribution(); }

 private:
  std::chrono::steady_clock::time_point start_;
  std::mutex mutex_;
  std::condition_variable changed_;
  SimTime woken_ = SimTime::never();
  bool released_ = false, awake_ = false;
  std::function<bool()> stop_;
  SimTime last_;
  WeightedSamples lateness_;
};

}  // namespace orrery
