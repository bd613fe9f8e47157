// Who leaves a round: candidates that are worse than the leader on the same requests by more than chance
// among those explains.
#pragma once

#include <cstddef>
#include <vector>

#include "plan/objective.h"

namespace orrery {

// Requests are drawn anew in blocks, the same blocks for everybody (a paired bootstrap); a candidate leaves
// when it is as good as the leader in fewer of the draws than this.
constexpr int racing_draws = 400;
constexpr double racing_doubt = 0.01;

// Of one round, the best one first: the leader. `true` for those that leave. `least`: so many stay
// whatever the draws say, from the front. `shares`: of the requests that have to be in time, by workload.
std::vector<bool> significantly_worse(const PlanSpace& space, const std::vector<const PlanScore*>& scores,
                                      std::size_t least, std::uint64_t seed,
                                      const std::vector<double>& shares);

}  // namespace orrery
