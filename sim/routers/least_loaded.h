// The rule that most routers fall back on.
#pragma once

#include <span>

#include "sim/router.h"

namespace orrery {

// Among the open ones whoever would have the least work with one request more: outstanding requests,
// that one included, times what a request takes there (RoutedInstance::weight; alike where nobody says).
// Among equals the lowest number.
inline std::size_t least_loaded(std::span<const InstanceView> instances, const RouterConfig& config) {
  std::size_t best = instances.size();
  std::int64_t least = 0;
  for (std::size_t i = 0; i < instances.size(); ++i) {
    if (!instances[i].open) continue;
    const std::int64_t weight = config.instances.empty() ? 1 : config.instances[i].weight;
    const std::int64_t load = (std::int64_t{instances[i].outstanding} + 1) * weight;
    if (best < instances.size() && load >= least) continue;
    best = i;
    least = load;
  }
  return best;
}

}  // namespace orrery
