#include "live/wall_clock.h"

#include <algorithm>

namespace orrery {

SimTime WallClock::wait_until(SimTime deadline) {
  std::unique_lock lock(mutex_);
  // A deadline of centuries is one of nobody's, and would overflow the library's arithmetic.
  constexpr std::chrono::nanoseconds longest = std::chrono::milliseconds(100);
  auto asked = std::chrono::steady_clock::time_point::min();
  while (!released_ && woken_.is_never() && now() < deadline) {
    const auto time = std::chrono::steady_clock::now();
    if (awake_ && time < asked) {
      lock.unlock();  // for whoever wakes
      lock.lock();
      continue;
    }
    asked = time + longest;
    if (stop_ && stop_()) {
      released_ = true;
      break;
    }
    if (awake_) continue;
    const auto enough = std::chrono::steady_clock::now() + longest;
    changed_.wait_until(lock, deadline - SimDuration(longest.count()) > now() ? enough : point(deadline));
  }
  const SimTime read = earlier(deadline, woken_);
  woken_ = SimTime::never();
  if (!released_ && read == deadline && read > last_) lateness_.add((now() - read).ns());
  last_ = later(last_, read);
  return last_;
}

void WallClock::wake(SimTime at) {
  const std::lock_guard lock(mutex_);
  woken_ = earlier(woken_, at);
  changed_.notify_one();
}

void WallClock::release() {
  const std::lock_guard lock(mutex_);
  released_ = true;
  changed_.notify_one();
}

}  // namespace orrery
