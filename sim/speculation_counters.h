// How drafts fared in a run.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery {

// As the engine counts: whose request had not ended, drafts behind its end included.
struct SpeculationCounters {
  std::uint64_t verifications = 0;  // of a sequence in a step, with at least one draft
  std::uint64_t drafts = 0, accepted = 0;
  std::uint64_t tokens = 0;  // delivered by decodes, with or without drafts
  std::uint64_t decodes = 0;
  std::vector<std::uint64_t> offered_at, accepted_at;  // by draft position; of a tree, by depth
  std::int32_t depth = 0;                              // of a tree; 0 = a chain
  // One decode that delivered `delivered` tokens after verifying `offered` drafts, of which it took `taken`.
  void count(std::int32_t delivered, std::int32_t offered, std::int32_t taken);
  void add(const SpeculationCounters& other);
};

}  // namespace orrery
