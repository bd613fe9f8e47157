// What the axes of a space say without their candidates being read.
#pragma once

#include <string>

#include "plan/candidates.h"

namespace orrery {

// Keys that decide how much a step may hold, not what it costs: candidates that differ in nothing else have
// one step graph, and one bound.
bool is_budget(const std::string& key);

// Shape and all values but budgets: the same for candidates of one step graph.
std::string graph_name(const Candidate& candidate);

// The most sequences of a step as the candidate's own values say; 0 where they do not.
std::int64_t own_sequences(const Candidate& candidate);

}  // namespace orrery
