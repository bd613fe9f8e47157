// Requests that wait at the proxy for others to arrive with them, and then go on shortest prompt first.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "sim/request.h"

namespace orrery {

class ArrivalBatch {
 public:
  // A batch is what arrives within `window` of its first request; 0: what arrives at one instant.
  explicit ArrivalBatch(SimDuration window) : window_(window) {}

  // When the open batch closes; never() when there is none.
  SimTime closes() const { return closes_; }
  void add(Request request, SimTime now) {
    if (batch_.empty()) closes_ = now + window_;
    batch_.push_back(std::move(request));
  }
  // The batch, shortest prompt first, among equals the lower request.
  std::vector<Request> take() {
    std::sort(batch_.begin(), batch_.end(), [](const Request& a, const Request& b) {
      return a.prompt_tokens != b.prompt_tokens ? a.prompt_tokens < b.prompt_tokens : a.id < b.id;
    });
    closes_ = SimTime::never();
    return std::exchange(batch_, {});
  }

 private:
  SimDuration window_;
  SimTime closes_ = SimTime::never();
  std::vector<Request> batch_;
};

}  // namespace orrery
