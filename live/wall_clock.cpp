#include "live/wall_clock.h"

#include <algorithm>

namespace orrery {

SimTime WallClock::wait_until(SimTime deadline) {
  std::unique_lock lock(mutex_);
  // A deadline of centuries is one of nobody's, and would overflow the library's arithmetic.
  constexpr auto longest = std::chrono::hours(1);
  bool waited = false;
  while (!released_ && woken_.is_never() && now() < deadline) {
    const auto enough = std::chrono::steady_clock::now() + longest;
    waited = true;
    changed_.wait_until(
        lock, deadline - SimDuration(3'600'000'000'000) > now() ? enough : std::min(enough, point(deadline)));
  }
  const SimTime read = earlier(deadline, woken_);
  woken_ = SimTime::never();
  last_ = later(last_, read);
  if (waited && !released_ && read == deadline) lateness_.add(std::max<std::int64_t>(0, (now() - read).ns()));
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
