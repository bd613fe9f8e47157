// Who lets time pass. Nothing above this seam can ask which clock runs.
#pragma once

#include "base/time.h"

namespace orrery {

class Clock {
 public:
  virtual ~Clock() = default;
  // Returns at the deadline, or earlier when something arrives; never decreases.
  virtual SimTime wait_until(SimTime deadline) = 0;
};

// Time jumps.
class VirtualClock final : public Clock {
 public:
  SimTime wait_until(SimTime deadline) override {
    now_ = later(now_, deadline);
    return now_;
  }

 private:
  SimTime now_;
};

}  // namespace orrery
