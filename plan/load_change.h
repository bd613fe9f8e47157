// The same requests under other circumstances.
#pragma once

#include <string>

#include "plan/candidates.h"

namespace orrery {

// A workload in a plan's memory, and what its results are kept under.
struct ChangedLoad {
  std::string name;
  SharedRequests requests;
  std::vector<SharedRequests> further = {};  // of the second workload, the third, …
  const SharedRequests& under(std::size_t workload) const {
    return workload == 0 ? requests : further[workload - 1];
  }
};

// Prompts so many times as long. Content that prompts share stays shared: every name becomes as many.
Result<ChangedLoad> with_longer_prompts(const SharedRequests& requests, double factor);
// Of the requests that could find a prefix in a cache only this share still can; the others' content is their
// own. Who that is is drawn by trace index.
Result<ChangedLoad> with_fewer_hits(const SharedRequests& requests, double share, std::uint64_t seed);

// Of every workload. Prompts become longer in all of them or in none; hits are fewer where there are any.
Result<ChangedLoad> with_longer_prompts(const WorkloadRequests& all, double factor);
Result<ChangedLoad> with_fewer_hits(const WorkloadRequests& all, double share, std::uint64_t seed);

}  // namespace orrery
