// Where experts live, and who moves them: placements with redundant experts, and the balancer (EPLB) that
// DeepSeek published: github.com/deepseek-ai/EPLB, which vLLM 0.24 and SGLang 0.5 use as well.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace orrery {

// One layer's. Slot s is on rank s ÷ slots(); each holds one whole expert, and every expert has at least one.
struct ExpertPlacement {
  std::int32_t ranks = 1;
  std::vector<std::int32_t> expert_of_slot;
  std::int32_t slots() const { return static_cast<std::int32_t>(expert_of_slot.size()) / ranks; }
  std::vector<std::int32_t> replicas(std::int32_t experts) const;  // of each expert, ≥ 1
  friend bool operator==(const ExpertPlacement&, const ExpertPlacement&) = default;
};

// As engines start: experts in order, then the redundant ones, which repeat the first
// (vLLM 0.24, `build_initial_global_physical_to_logical_map`). experts + redundant must divide by ranks.
ExpertPlacement initial_placement(std::int32_t experts, std::int32_t redundant, std::int32_t ranks);

// Items to packs of equal numbers: by descending weight (ties: the lower index), each to the lightest pack
// with room (ties: the lower pack). Bound: heaviest pack ≤ mean + largest item, because the heaviest pack
// took its last item while it was the lightest with room, and full packs took earlier, larger items; tested.
struct Packing {
  std::vector<std::int32_t> pack, place;  // of each item: its pack and its place in there
};
Packing balanced_packing(std::span<const double> weights, std::int32_t packs);

// `slots` ≥ experts: one of each, then again and again the expert with most load a replica. No other choice
// of numbers of replicas has a smaller largest load of a replica. Returns the expert of each slot.
std::vector<std::int32_t> replicate_experts(std::span<const double> loads, std::int32_t slots);

struct BalancerShape {
  std::int32_t redundant = 0, ranks = 1;
  std::int32_t groups = 1, nodes = 1;  // groups of experts, as a router picks them; nodes of ranks
};
// Hierarchical where the nodes divide the groups: groups to nodes, replicas within a node, replicas to its
// ranks. Else global: the same with one node and one group. `loads`: of each expert, ≥ 0.
ExpertPlacement balance_experts(std::span<const double> loads, const BalancerShape& shape);

// The new placement with what stays on a rank left in its slot, as far as possible (vLLM's
// `preserve_intragpu_slots`), and how many slots of the busiest rank receive an expert it did not hold.
struct PlacementMove {
  ExpertPlacement placement;
  std::int32_t moved = 0;         // slots that receive, all ranks
  std::int32_t busiest_rank = 0;  // of one rank, the most
};
PlacementMove move_to(const ExpertPlacement& from, const ExpertPlacement& to);

}  // namespace orrery
