// The same requests under other circumstances.
#pragma once

#include <string>

#include "plan/candidates.h"

namespace orrery {

// A workload in a plan's memory, and what its results are kept under.
struct ChangedLoad {
  std::string name;
  SharedRequests requests;
};

// Prompts so many times as long. Content that prompts share stays shared: every name becomes as many.
Result<ChangedLoad> with_longer_prompts(const SharedRequests& requests, double factor);
// Of the requests that could find a prefix in a cache only this share still can; the others' content is their
// own. Who that is is drawn by trace index.
Result<ChangedLoad> with_fewer_hits(const SharedRequests& requests, double share, std::uint64_t seed);

}  // namespace orrery
