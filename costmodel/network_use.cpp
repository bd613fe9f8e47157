// What a step puts on links, and what it takes longer when they are shared.
//
// A collective beside flows gets its max-min share of a link: at the link's own rate its bytes take
// `slowdown` times as long. Alone it does not reach that rate (link_efficiency, measured times), so it takes
// the longer of the two. What faults leave of a link scales what it reaches as well. All of a step's traffic
// takes no more longer than the others need for what they have left: then they are gone (links work on).
#include <algorithm>

#include "costmodel/collective.h"
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

double shared_ns(const OpCost& cost, const LinkPace& pace) {
  const double alone = cost.ns();
  // Of a measured time what is left beside the start is taken to be the links', at least their own rate's.
  const double wait = cost.table_ns > 0
                          ? std::min(cost.latency_ns, std::max(0.0, cost.table_ns - cost.inside_ns))
                          : cost.latency_ns;
  const double link = cost.table_ns > 0 ? cost.table_ns - wait : cost.link_ns;
  const double inside_left = cost.inside_ns > 0 ? pace.inside.left : 1;
  const double network_left = cost.network_ns > 0 ? pace.network.left : 1;
  const double weak = link / std::min(inside_left, network_left);
  return std::max({alone, wait + weak, wait + cost.inside_ns * pace.inside.slowdown,
                   wait + cost.network_ns * pace.network.slowdown});
}

LinkPace without_others(LinkPace pace) {
  pace.inside.slowdown = pace.network.slowdown = 1;
  return pace;
}

void add_use(const OpCost& cost, double weight, double count, const LinkPace& pace, LinkUse& use) {
  if (!pace.alone()) {
    use.more_ns += weight * (shared_ns(cost, pace) - cost.ns());
    use.weak_ns += weight * (shared_ns(cost, without_others(pace)) - cost.ns());
  }
  use.inside_ns += count * cost.inside_ns;
  use.network_bytes += count * cost.network_bytes;
}

void bound(const LinkPace& pace, LinkUse& use) {
  use.more_ns = std::min(use.more_ns, use.weak_ns + pace.inside.most_ns + pace.network.most_ns);
}

bool has_traffic(const GraphNode& node) { return node.entry->op_class == OpClass::collective; }

}  // namespace

LinkUse StepPricer::link_use(std::span<const StepShape> ranks, const LinkPace& pace) const {
  LinkUse use;
  const auto works = [](const StepShape& s) { return !s.prefill.empty() || s.decode_sequences > 0; };
  const auto shape = std::find_if(ranks.begin(), ranks.end(), works);
  ORRERY_CHECK(shape != ranks.end(), "a step without tokens uses no link");
  // What all ranks gather is the same for each; what a rank's own GPUs exchange is the first one's.
  const PaddedStep padded = ranks.size() > 1 ? state_->padding.pad(*shape, state_->padding.join(ranks))
                                             : state_->padding.pad(*shape);
  for (std::size_t i = 0; i < state_->nodes.size(); ++i) {
    const GraphNode& node = state_->nodes[i];
    if (!has_traffic(node) || !state_->takes_part(node, *shape, padded)) continue;
    const OpCost cost = node.op->cost(state_->input_of(node, *shape, padded));
    add_use(cost, state_->weights[i], static_cast<double>(node.count), pace, use);
  }
  bound(pace, use);
  return use;
}

LinkUse StepPricer::stage_link_use(std::size_t stage, const StepShape& shape, const LinkPace& pace,
                                   bool handoff) const {
  LinkUse use;
  const PricerState& s = *state_->stages[stage];
  const PaddedStep padded = s.padding.pad(shape);
  for (std::size_t i = 0; i < s.nodes.size(); ++i) {
    const GraphNode& node = s.nodes[i];
    const bool hands_over = node.spec.depends_on == DependsOn::handoff;
    if (!has_traffic(node) || hands_over != handoff || !s.takes_part(node, shape, padded)) continue;
    const OpCost cost = node.op->cost(s.input_of(node, shape, padded));
    add_use(cost, s.weights[i], static_cast<double>(node.count), pace, use);
  }
  bound(pace, use);
  return use;
}

// Weights are exchanged by an all-to-all, which sends (n − 1)/n of its buffer.
StepPricer::ExpertMove StepPricer::expert_move(double bytes, const LinkPace& pace) const {
  const std::int32_t ranks = state_->expert_ranks;
  ExpertMove move;
  if (ranks < 2 || bytes <= 0) return move;
  const double buffer = bytes * ranks / (ranks - 1);
  const PlanLinks* links = state_->links.get();
  const bool crosses = links != nullptr && links->all.crosses();
  const OpCost cost = crosses
                          ? across_nodes_cost(*state_->roofline, Collective::all_to_all, buffer, links->all)
                          : collective_cost(*state_->roofline, Collective::all_to_all, buffer, ranks);
  add_use(cost, 1, 1, pace, move.use);
  bound(pace, move.use);
  move.ns = cost.ns() + move.use.more_ns;
  return move;
}

}  // namespace orrery
