// Inside plan/ only: what a recommendation says of several workloads, each apart.
#pragma once

#include <string>

#include "plan/recommendation.h"

namespace orrery {

// Under `workloads` of an entry of recommendation.json; null with one workload.
Json mix_json(const PlanSpace& space, const PlanScore& score);
// A section of recommendation.md: the choice and its alternatives under each; "" with one workload.
std::string mix_markdown(const RecommendationInput& input);

}  // namespace orrery
