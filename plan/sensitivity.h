// What would change the decision: the choice and its alternatives under other loads, and with less of them
// there; and how far the choice carries.
#pragma once

#include <string>
#include <vector>

#include "plan/rounds.h"

namespace orrery {

// Runs every case of `search.what_if` for the first finalists, and the curves of `search.curves` for the
// choice. Nothing where nothing meets the SLO.
Result<Sensitivity> look_around(const PlanSpace& space, const SearchOptions& options,
                                const PlanSearch& search, const WorkloadRequests& requests,
                                PlanRunner& runner);

std::string curves_csv(const Sensitivity& sensitivity);

}  // namespace orrery
