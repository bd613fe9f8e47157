#include "sim/fabric/collectives.h"

#include <algorithm>
#include <map>

#include "base/text.h"

namespace orrery::fabric {

namespace {

struct Transfer {
  std::size_t from, to;
  double share;  // of the buffer
};
struct Phase {
  std::vector<Transfer> transfers;
  std::int32_t steps = 1;
};

void every_pair(Phase& phase, std::size_t first, std::size_t count, double share) {
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < count; ++j)
      if (i != j) phase.transfers.push_back({first + i, first + j, share});
}

// In a mesh without switches libraries run a ring along every direction of every pair, each with its part.
bool is_mesh(const std::vector<DeviceId>& ranks, Routes& routes) {
  for (const DeviceId a : ranks)
    for (const DeviceId b : ranks)
      if (a != b && routes.find(a, b, 0).size() != 1) return false;
  return true;
}

// Every rank sends `share` of the buffer to its neighbour over all steps.
Phase ring(std::size_t n, double share, std::int32_t steps, bool mesh) {
  Phase phase;
  phase.steps = steps;
  if (mesh) {
    every_pair(phase, 0, n, share / static_cast<double>(n - 1));
  } else {
    for (std::size_t i = 0; i < n; ++i) phase.transfers.push_back({i, (i + 1) % n, share});
  }
  return phase;
}

// Two binary trees over halves of the buffer (Sanders et al., Two-tree algorithms, 2009), up and down; the
// second is the first with ranks in reverse, so that an inner rank of one is a leaf of the other.
Phase double_tree(std::size_t n) {
  Phase phase;
  std::size_t depth = 0;
  while ((std::size_t{1} << depth) < n) ++depth;
  phase.steps = static_cast<std::int32_t>(2 * depth);
  for (std::size_t tree = 0; tree < 2; ++tree) {
    for (std::size_t i = 1; i < n; ++i) {
      const std::size_t above = (i - 1) / 2;
      const std::size_t child = tree == 0 ? i : n - 1 - i, parent = tree == 0 ? above : n - 1 - above;
      phase.transfers.push_back({child, parent, 0.5});
      phase.transfers.push_back({parent, child, 0.5});
    }
  }
  return phase;
}

bool is_exchange(CollectiveOp op) {
  return op == CollectiveOp::all_to_all || op == CollectiveOp::dispatch || op == CollectiveOp::combine;
}

struct Wire {
  double wire = 0;
  SimDuration latency;
};
Result<Wire> route_phase(Routes& routes, const Topology& topology, const std::vector<DeviceId>& ranks,
                         const Phase& phase) {
  std::vector<double> load(topology.link_count());
  SimDuration longest;
  for (std::size_t i = 0; i < phase.transfers.size(); ++i) {
    const Transfer& t = phase.transfers[i];
    const std::vector<LinkId> route = routes.find(ranks[t.from], ranks[t.to], i);
    if (route.empty())
      return invalid_input("no way from " + topology.device(ranks[t.from]).name + " to " +
                           topology.device(ranks[t.to]).name);
    SimDuration latency;
    for (const LinkId link : route) {
      load[link.value()] += t.share;
      latency += topology.link(link).latency;
    }
    if (longest < latency) longest = latency;
  }
  Wire out;
  for (std::size_t l = 0; l < load.size(); ++l) {
    const auto rate =
        static_cast<double>(topology.link(LinkId(static_cast<std::uint32_t>(l))).bytes_per_second);
    out.wire = std::max(out.wire, load[l] / rate);
  }
  out.latency = longest * phase.steps;
  return out;
}

// A switch that adds up (NVLS): each rank sends its buffer and a part's sum, and receives as much.
AlgorithmTerms in_switch_terms(const Topology& topology, const std::vector<DeviceId>& ranks,
                               const std::vector<LinkId>& way) {
  const auto rate = static_cast<double>(topology.link(way.front()).bytes_per_second);
  const double n = static_cast<double>(ranks.size());
  SimDuration latency;
  for (const LinkId link : way) latency += topology.link(link).latency;
  return {2, (1 + 1 / n) / rate, latency * 2};
}

Result<std::size_t> ranks_per_node(const Topology& topology, const std::vector<DeviceId>& ranks) {
  std::map<std::int32_t, std::size_t> count;
  for (const DeviceId rank : ranks) ++count[topology.device(rank).node];
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const std::size_t each = count.begin()->second;
    const bool together = topology.device(ranks[i]).node == topology.device(ranks[i - i % each]).node;
    if (count[topology.device(ranks[i]).node] != each || !together)
      return invalid_input(
          "a hierarchical collective needs equally many ranks in every node, node after node");
  }
  return count.begin()->second;
}

// Reduce-scatter inside nodes, rings between nodes (one per rank of a node), all-gather inside nodes.
std::vector<Phase> hierarchical(std::size_t n, std::size_t each) {
  const std::size_t nodes = n / each;
  Phase inside, between;
  for (std::size_t node = 0; node < nodes; ++node)
    every_pair(inside, node * each, each, 1 / static_cast<double>(each));
  const double m = static_cast<double>(nodes);
  for (std::size_t i = 0; i < n; ++i)
    between.transfers.push_back({i, (i + each) % n, 2 * (m - 1) / m / static_cast<double>(each)});
  between.steps = static_cast<std::int32_t>(2 * (nodes - 1));
  std::vector<Phase> phases;
  if (each > 1) phases.push_back(inside);
  if (nodes > 1) phases.push_back(between);
  if (each > 1) phases.push_back(inside);
  return phases;
}

Result<std::vector<Phase>> phases_of(Routes& routes, const Topology& topology,
                                     const std::vector<DeviceId>& ranks, CollectiveOp op,
                                     Algorithm algorithm) {
  const std::size_t n = ranks.size();
  const double part = 1 / static_cast<double>(n);
  const bool reduce = op == CollectiveOp::all_reduce;
  std::vector<Phase> phases;
  if (algorithm == Algorithm::ring && !is_exchange(op)) {
    const std::int32_t steps = static_cast<std::int32_t>(n - 1) * (reduce ? 2 : 1);
    phases.push_back(ring(n, steps * part, steps, is_mesh(ranks, routes)));
  } else if (algorithm == Algorithm::tree && reduce) {
    phases.push_back(double_tree(n));
  } else if ((algorithm == Algorithm::one_shot || algorithm == Algorithm::two_shot) && reduce) {
    const bool one = algorithm == Algorithm::one_shot;
    for (int shot = 0; shot < (one ? 1 : 2); ++shot) {
      phases.emplace_back();
      every_pair(phases.back(), 0, n, one ? 1 : part);
    }
  } else if (algorithm == Algorithm::direct && !reduce) {
    phases.emplace_back();
    every_pair(phases.back(), 0, n, part);
  } else if (algorithm == Algorithm::hierarchical && reduce) {
    ORRERY_TRY(each, ranks_per_node(topology, ranks));
    phases = hierarchical(n, each);
  } else {
    return invalid_input("no " + algorithm_names[static_cast<std::size_t>(algorithm)] + " algorithm for " +
                         collective_op_names[static_cast<std::size_t>(op)]);
  }
  return phases;
}

}  // namespace

const std::vector<std::string> collective_op_names{"all_reduce", "all_gather", "reduce_scatter",
                                                   "all_to_all", "dispatch",   "combine"};
const std::vector<std::string> algorithm_names{"ring",   "tree",      "one_shot",    "two_shot",
                                               "direct", "in_switch", "hierarchical"};

Result<AlgorithmTerms> algorithm_terms(Routes& routes, const Topology& topology,
                                       const std::vector<DeviceId>& ranks, CollectiveOp op,
                                       Algorithm algorithm) {
  ORRERY_CHECK(ranks.size() >= 2, "a collective needs two ranks");
  if (algorithm == Algorithm::in_switch) {
    const std::vector<LinkId> way = routes.find(ranks[0], ranks[1], 0);
    const bool over_switch =
        way.size() == 2 && topology.device(topology.link(way[0]).to).kind == DeviceKind::nvswitch;
    if (op != CollectiveOp::all_reduce || !over_switch)
      return invalid_input("in_switch is an all_reduce of GPUs on one NVSwitch");
    return in_switch_terms(topology, ranks, way);
  }
  ORRERY_TRY(phases, phases_of(routes, topology, ranks, op, algorithm));
  AlgorithmTerms terms;
  for (const Phase& phase : phases) {
    ORRERY_TRY(wire, route_phase(routes, topology, ranks, phase));
    terms.steps += phase.steps;
    terms.wire += wire.wire;
    terms.route_latency += wire.latency;
  }
  return terms;
}

namespace {

const CollectiveSet* find_set(const CollectiveFigures& figures, const std::string& library, CollectiveOp op,
                              std::size_t ranks) {
  for (const CollectiveSet& set : figures.sets)
    if (set.library == library && set.op == op && set.ranks == static_cast<std::int32_t>(ranks)) return &set;
  return nullptr;
}

Result<CollectiveTime> inside_node(const CollectiveFigures& figures, Routes& routes, const Topology& topology,
                                   const std::vector<DeviceId>& ranks, const std::string& library,
                                   CollectiveOp op, double bytes) {
  const CollectiveSet* set = find_set(figures, library, op, ranks.size());
  if (set == nullptr) {
    return invalid_input(figures.part + " has no figures of " + library + " for " +
                         collective_op_names[static_cast<std::size_t>(op)] + " on " +
                         std::to_string(ranks.size()) + " ranks; add them to hardware_profiles/collectives/" +
                         figures.part + ".yaml");
  }
  const CollectiveRange* range = &set->ranges.back();
  for (const CollectiveRange& one : set->ranges) {
    if (bytes > one.up_to_bytes) continue;
    range = &one;
    break;
  }
  ORRERY_TRY(terms, algorithm_terms(routes, topology, ranks, op, range->algorithm));
  return CollectiveTime{range->latency.value + bytes * terms.wire / range->efficiency.value,
                        range->algorithm};
}

}  // namespace

Result<CollectiveTime> collective_time(const CollectiveFigures& figures, Routes& routes,
                                       const Topology& topology, const std::vector<DeviceId>& ranks,
                                       const std::string& library, CollectiveOp op, double bytes) {
  ORRERY_CHECK(ranks.size() >= 2 && bytes > 0, "a collective needs two ranks and bytes");
  const std::int32_t node = topology.device(ranks.front()).node;
  const auto here = [&](DeviceId rank) { return topology.device(rank).node == node; };
  if (std::all_of(ranks.begin(), ranks.end(), here))
    return inside_node(figures, routes, topology, ranks, library, op, bytes);
  return invalid_input("figures are of one node, and these ranks stand on several (see sim/fabric/across.h)");
}

}  // namespace orrery::fabric
