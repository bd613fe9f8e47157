#include "live/forward/step_watch.h"

#include <algorithm>

#include "base/json.h"

namespace orrery {

StepWatch::StepWatch(double patience_s, std::function<bool(std::string&)> fine,
                     std::function<void(const std::string&)> broken)
    : patience_s_(patience_s), fine_(std::move(fine)), broken_(std::move(broken)),
      thread_([this] { work(); }) {}

StepWatch::~StepWatch() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void StepWatch::work() {
  using Clock = std::chrono::steady_clock;
  const std::chrono::duration<double> pause(std::min(0.1, patience_s_ / 4));
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, pause, [this] { return ended_; })) {
    std::string why;
    const std::int64_t begun = begun_;
    const std::chrono::duration<double> taken = Clock::duration(begun == 0 ? 0 : now() - begun);
    if (taken.count() > patience_s_) {
      why = "a step was not over after " + format_fixed(patience_s_, 1) +
            " s: kernels of a rank wait for another's";
    } else if (fine_(why)) {
      continue;
    }
    lock.unlock();
    return broken_(why);
  }
}

}  // namespace orrery
