// Of a recommendation: what would change it, how far the choice carries, what to measure.
#pragma once

#include <string>

#include "base/json.h"
#include "plan/recommendation.h"

namespace orrery {

// Adds the keys `what_if`, `curves` and `measure_next`, where there is something to say.
void add_around(const RecommendationInput& input, Json& out);
std::string around_markdown(const RecommendationInput& input);
// A sentence with a command; empty where no draw goes with the distance of the first two.
std::string what_to_measure(const PlanSearch& search, std::int64_t draws);

}  // namespace orrery
