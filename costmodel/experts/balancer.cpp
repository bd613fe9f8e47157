#include "costmodel/experts/balancer.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace orrery {

std::vector<std::int32_t> ExpertPlacement::replicas(std::int32_t experts) const {
  std::vector<std::int32_t> count(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t e : expert_of_slot) ++count[static_cast<std::size_t>(e)];
  return count;
}

ExpertPlacement initial_placement(std::int32_t experts, std::int32_t redundant, std::int32_t ranks) {
  ORRERY_CHECK((experts + redundant) % ranks == 0, "ranks hold equal numbers of experts");
  ExpertPlacement p{ranks, {}};
  for (std::int32_t s = 0; s < experts + redundant; ++s) p.expert_of_slot.push_back(s % experts);
  return p;
}

Packing balanced_packing(std::span<const double> weights, std::int32_t packs) {
  const auto items = static_cast<std::int32_t>(weights.size());
  ORRERY_CHECK(packs > 0 && items % packs == 0, "packs of equal numbers");
  const std::int32_t room = items / packs;
  Packing out{std::vector<std::int32_t>(weights.size()), std::vector<std::int32_t>(weights.size(), 0)};
  if (room == 1) {
    std::iota(out.pack.begin(), out.pack.end(), 0);
    return out;
  }
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return weights[a] > weights[b]; });
  std::vector<double> load(static_cast<std::size_t>(packs), 0);
  std::vector<std::int32_t> filled(load.size(), 0);
  for (const std::size_t item : order) {
    std::size_t best = load.size();
    for (std::size_t p = 0; p < load.size(); ++p) {
      if (filled[p] < room && (best == load.size() || load[p] < load[best])) best = p;
    }
    out.pack[item] = static_cast<std::int32_t>(best);
    out.place[item] = filled[best]++;
    load[best] += weights[item];
  }
  return out;
}

std::vector<std::int32_t> replicate_experts(std::span<const double> loads, std::int32_t slots) {
  const auto experts = static_cast<std::int32_t>(loads.size());
  ORRERY_CHECK(slots >= experts, "every expert has a slot");
  std::vector<std::int32_t> expert_of_slot(static_cast<std::size_t>(experts));
  std::iota(expert_of_slot.begin(), expert_of_slot.end(), 0);
  std::vector<double> count(loads.size(), 1.0);
  for (std::int32_t s = experts; s < slots; ++s) {
    std::size_t most = 0;
    for (std::size_t e = 1; e < loads.size(); ++e) {
      if (loads[e] / count[e] > loads[most] / count[most]) most = e;
    }
    expert_of_slot.push_back(static_cast<std::int32_t>(most));
    count[most] += 1;
  }
  return expert_of_slot;
}

namespace {

// One node's experts (`held`, ids) to its ranks; appends the node's slots.
void balance_node(std::span<const double> loads, const std::vector<std::int32_t>& held, std::int32_t slots,
                  std::int32_t ranks, std::vector<std::int32_t>& expert_of_slot) {
  std::vector<double> own(held.size()), count(held.size(), 0);
  for (std::size_t i = 0; i < held.size(); ++i) own[i] = loads[static_cast<std::size_t>(held[i])];
  const std::vector<std::int32_t> replica = replicate_experts(own, slots);
  for (const std::int32_t r : replica) count[static_cast<std::size_t>(r)] += 1;
  std::vector<double> each;
  for (const std::int32_t r : replica)
    each.push_back(own[static_cast<std::size_t>(r)] / count[static_cast<std::size_t>(r)]);
  const Packing packing = balanced_packing(each, ranks);
  const std::size_t first = expert_of_slot.size();
  expert_of_slot.resize(first + replica.size());
  for (std::size_t i = 0; i < replica.size(); ++i) {
    const auto slot = static_cast<std::size_t>(packing.pack[i] * (slots / ranks) + packing.place[i]);
    expert_of_slot[first + slot] = held[static_cast<std::size_t>(replica[i])];
  }
}

}  // namespace

ExpertPlacement balance_experts(std::span<const double> loads, const BalancerShape& given) {
  BalancerShape shape = given;
  if (shape.groups % shape.nodes != 0) shape.groups = shape.nodes = 1;
  const auto experts = static_cast<std::int32_t>(loads.size());
  const std::int32_t slots = experts + shape.redundant, group = experts / shape.groups;
  ORRERY_CHECK(slots % shape.ranks == 0 && shape.ranks % shape.nodes == 0 && experts % shape.groups == 0,
               "equal numbers of slots a rank, ranks a node and experts a group");
  std::vector<double> of_group(static_cast<std::size_t>(shape.groups), 0);
  for (std::int32_t e = 0; e < experts; ++e)
    of_group[static_cast<std::size_t>(e / group)] += loads[static_cast<std::size_t>(e)];
  const Packing nodes = balanced_packing(of_group, shape.nodes);
  ExpertPlacement out{shape.ranks, {}};
  for (std::int32_t node = 0; node < shape.nodes; ++node) {
    std::vector<std::int32_t> held(static_cast<std::size_t>(experts / shape.nodes));
    for (std::int32_t g = 0; g < shape.groups; ++g) {
      if (nodes.pack[static_cast<std::size_t>(g)] != node) continue;
      for (std::int32_t i = 0; i < group; ++i) {
        const std::int32_t place = nodes.place[static_cast<std::size_t>(g)] * group + i;
        held[static_cast<std::size_t>(place)] = g * group + i;
      }
    }
    balance_node(loads, held, slots / shape.nodes, shape.ranks / shape.nodes, out.expert_of_slot);
  }
  return out;
}

PlacementMove move_to(const ExpertPlacement& from, const ExpertPlacement& to) {
  ORRERY_CHECK(from.ranks == to.ranks && from.expert_of_slot.size() == to.expert_of_slot.size(),
               "the slots of both placements are the same");
  const auto slots = static_cast<std::size_t>(to.slots());
  PlacementMove out{to, 0, 0};
  for (std::size_t first = 0; first < to.expert_of_slot.size(); first += slots) {
    std::vector<std::int32_t> coming(to.expert_of_slot.begin() + static_cast<std::ptrdiff_t>(first),
                                     to.expert_of_slot.begin() + static_cast<std::ptrdiff_t>(first + slots));
    std::vector<std::size_t> open;
    for (std::size_t s = first; s < first + slots; ++s) {
      const auto stays = std::find(coming.begin(), coming.end(), from.expert_of_slot[s]);
      if (stays == coming.end()) {
        open.push_back(s);
        continue;
      }
      out.placement.expert_of_slot[s] = *stays;
      coming.erase(stays);
    }
    std::int32_t receives = 0;
    const auto old = from.expert_of_slot.begin() + static_cast<std::ptrdiff_t>(first);
    for (std::size_t i = 0; i < open.size(); ++i) {
      out.placement.expert_of_slot[open[i]] = coming[i];
      // A second copy of what the rank holds is copied inside the device.
      const bool here = std::find(old, old + static_cast<std::ptrdiff_t>(slots), coming[i]) !=
                        old + static_cast<std::ptrdiff_t>(slots);
      receives += here ? 0 : 1;
    }
    out.moved += receives;
    out.busiest_rank = std::max(out.busiest_rank, receives);
  }
  return out;
}

}  // namespace orrery
