// One request of a finished run, looked at again: the run is repeated, which gives the same run, with an
// observer on that request. What `orrery explain` shows.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/result.h"
#include "sim/costed/scenario.h"
#include "sim/results.h"

namespace orrery {

struct RequestStory {
  RequestRecord record;
  std::vector<RequestEvent> events;       // of this request, in order of time
  std::vector<StepRecord> steps;          // of its instance, while it was running there
  std::vector<std::uint64_t> companions;  // requests that ran at the same instance at the same time, by index
  std::vector<std::uint64_t> ahead;  // requests that waited in front of it or ran when it arrived, by index
  std::uint64_t digest = 0;          // of the repeated run; must equal the first one's
};

Result<RequestStory> watch_request(const Scenario& scenario, std::uint64_t request,
                                   const std::function<bool(std::uint64_t)>& keep_going);

}  // namespace orrery
