#include "calibrate/axes.h"

#include "base/check.h"

namespace orrery::calibrate {

int axis_level(std::size_t i, std::size_t n) {
  ORRERY_CHECK(i < n, "a value off its axis");
  if (i == 0 || i + 1 == n) return 0;
  std::size_t low = 0, high = n - 1;
  for (int level = 0;; ++level) {
    const std::size_t middle = low + (high - low) / 2;
    if (i == middle) return level;
    (i < middle ? high : low) = middle;
  }
}

}  // namespace orrery::calibrate
