// A tree of drafts from the cost model, which knows its shape, to the simulator, which walks it.
#pragma once

#include <memory>

#include "costmodel/draft_tree.h"
#include "costmodel/speculation.h"
#include "sim/speculation.h"

namespace orrery {

inline std::shared_ptr<const DraftPaths> draft_paths(const DraftTree& tree) {
  auto paths = std::make_shared<DraftPaths>();
  paths->chances = tree.chances;
  for (const DraftTree::Node& node : tree.nodes) paths->candidates.push_back(node.candidates);
  return paths;
}

// Who draws how a deployment's drafts fare.
inline SampledAcceptance sampled_acceptance(const SpeculationSpec& s, std::uint64_t seed) {
  if (s.tree != nullptr) return {draft_paths(*s.tree), seed, s.match_rate};
  return {seed, s.acceptance, s.match_rate};
}

}  // namespace orrery
