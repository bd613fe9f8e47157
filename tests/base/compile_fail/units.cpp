// Compiled once per mistake; each must be refused (tests/base/CMakeLists.txt).
#include "base/ids.h"
#include "base/quantity.h"

using namespace orrery;

void use() {
  const Bytes bytes(1);
  const Flops flops(1);
  const BytesPerSecond bandwidth(1);
  SimTime time;
  SimDuration duration;
  [[maybe_unused]] const Seconds good = bytes / bandwidth;
  [[maybe_unused]] const SimTime later_time = time + duration;
#if ORRERY_MISTAKE == 1
  [[maybe_unused]] const auto x = bytes + flops;
#elif ORRERY_MISTAKE == 2
  [[maybe_unused]] const auto x = flops / bandwidth;
#elif ORRERY_MISTAKE == 3
  [[maybe_unused]] const Bytes x = 1.0;
#elif ORRERY_MISTAKE == 4
  [[maybe_unused]] const auto x = time + time;
#elif ORRERY_MISTAKE == 5
  [[maybe_unused]] const SimDuration x = 5;
#elif ORRERY_MISTAKE == 6
  [[maybe_unused]] const bool x = RequestId(1) == StepId(1);
#elif ORRERY_MISTAKE == 7
  [[maybe_unused]] const auto x = bytes * bytes;
#endif
}
