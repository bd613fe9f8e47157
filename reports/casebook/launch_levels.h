// What launches of steps with prompts say of an engine's host terms: prompts alone and prompts beside
// decodes, kernel by kernel and in pieces.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "reports/casebook/host_level.h"
#include "reports/casebook/step_samples.h"

namespace orrery {

struct LaunchLevels {
  HostLevel lone, lone_pieces, beside, beside_pieces;
  double eager = 1, piecewise = 1;                 // factors on launching beyond `launch_graph`
  double jitter = 1;                               // on launch_jitter_median
  std::map<std::string, std::string> kept, notes;  // by host term
};

// `launch_graph`, `per_sequence`: what the steps' graph launches say (microseconds).
LaunchLevels launch_levels(const std::vector<StepSample>& samples, const InstanceSpec& spec,
                           double launch_graph, double per_sequence);

}  // namespace orrery
