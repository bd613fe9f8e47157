// Which measurement would settle the ranking: whose doubt moves the distance between the first two.
#pragma once

#include "plan/search.h"

namespace orrery {

// Over the draws of the first two finalists: the correlation of the difference of their objectives (of their
// attainments, where one misses the SLO) with the draw of each operator class and of host times. Empty where
// there are not two, or the difference never changes.
std::vector<DoubtSource> doubt_of(const PlanSearch& search, std::uint64_t seed, std::size_t draws);

// Above this a correlation of so many draws is none by chance in 19 of 20 cases (Fisher's z).
double least_correlation(std::size_t draws);

}  // namespace orrery
