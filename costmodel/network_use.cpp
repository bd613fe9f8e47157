// What a step puts on the links between nodes, and what it takes longer when they are shared.
#include <algorithm>

#include "costmodel/collective.h"
#include "costmodel/pricer_state.h"

namespace orrery {

NetworkUse StepPricer::network_use(std::span<const StepShape> ranks, double slowdown) const {
  NetworkUse use;
  if (state_->links == nullptr || !state_->stages.empty()) return use;
  const auto works = [](const StepShape& s) { return !s.prefill.empty() || s.decode_sequences > 0; };
  const auto shape = std::find_if(ranks.begin(), ranks.end(), works);
  ORRERY_CHECK(shape != ranks.end(), "a step without tokens uses no link");
  // What all ranks gather is the same for each; what a rank's own GPUs exchange is the first one's.
  const PaddedStep padded = ranks.size() > 1 ? state_->padding.pad(*shape, state_->padding.join(ranks))
                                             : state_->padding.pad(*shape);
  for (std::size_t i = 0; i < state_->nodes.size(); ++i) {
    const GraphNode& node = state_->nodes[i];
    if (node.spec.links == nullptr || node.entry->op_class != OpClass::collective) continue;
    if (!state_->takes_part(node, *shape, padded)) continue;
    const OpCost cost = node.op->cost(state_->input_of(node, *shape, padded));
    OpCost slowed = cost;
    slowed.link_ns = std::max(cost.link_ns, cost.network_ns * slowdown);
    use.more_ns += state_->weights[i] * (slowed.ns() - cost.ns());
    use.link_bytes += static_cast<double>(node.count) * cost.network_bytes;
  }
  return use;
}

// Weights are exchanged by an all-to-all, which sends (n − 1)/n of its buffer.
double StepPricer::expert_move_ns(double bytes) const {
  const std::int32_t ranks = state_->expert_ranks;
  if (ranks < 2 || bytes <= 0) return 0;
  const double buffer = bytes * ranks / (ranks - 1);
  const PlanLinks* links = state_->links.get();
  if (links != nullptr && links->all.crosses())
    return across_nodes_cost(*state_->roofline, Collective::all_to_all, buffer, links->all).ns();
  return collective_cost(*state_->roofline, Collective::all_to_all, buffer, ranks).ns();
}

}  // namespace orrery
