// What a choice hangs on: how far it is from its limits and from the next one.
#pragma once

#include <string>
#include <vector>

#include "plan/search.h"

namespace orrery {

// Sentences, the nearest change first; empty where nothing was chosen.
std::vector<std::string> would_change(const PlanSpace& space, const PlanSearch& search);

// Of finalists that all miss the SLO: whose worst limit is the least exceeded, so that the least is to be
// relaxed.
const PlanEntry& nearest_missing(const PlanSearch& search);

// What the nearest deployment misses of its SLO, by how much, and which limit to relax to what: sentences
// with a blank before each, for messages. `entry` misses it.
std::string missed_limits(const PlanSpace& space, const Candidate& candidate, const PlanScore& score);

// Of candidates none of which was run: who is nearest to being allowed, by how much it misses, and what to
// change. "" where no figure says how near anybody is.
std::string nearest_rejected(const CandidateList& list);

}  // namespace orrery
