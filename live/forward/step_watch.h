// Looks after steps that several devices run together: a thread that says when one takes too long, or when
// what is asked now and then is no longer well. It calls back once, from its own thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace orrery {

class StepWatch {
 public:
  // `fine`: with words where it is not. `broken`: called with those, or with how long a step has taken.
  StepWatch(double patience_s, std::function<bool(std::string&)> fine,
            std::function<void(const std::string&)> broken);
  StepWatch(const StepWatch&) = delete;
  StepWatch& operator=(const StepWatch&) = delete;
  ~StepWatch();
  void begin() { begun_ = now(); }
  void end() { begun_ = 0; }

 private:
  static std::int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
  void work();

  double patience_s_;
  std::function<bool(std::string&)> fine_;
  std::function<void(const std::string&)> broken_;
  std::atomic<std::int64_t> begun_ = 0;  // of the step under way; 0: none is
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace orrery
