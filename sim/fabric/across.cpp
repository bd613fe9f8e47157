#include "sim/fabric/across.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>

#include "base/check.h"

namespace orrery::fabric {

namespace {

enum class Shape : std::uint8_t { tree, ring };
enum class Hardware : std::uint8_t { scale_up, pcie, network };

// Microseconds, by LL, LL128, Simple (see across.h).
constexpr std::array<const char*, 3> protocols{"LL", "LL128", "Simple"};
constexpr double base_us[2][3] = {{6.8, 14.0, 8.4}, {6.6, 14.0, 8.4}};
constexpr double hop_us[3][2][3] = {
    {{0.6, 1.25, 4.0}, {0.6, 1.9, 3.4}},   // NVLink
    {{1.0, 1.9, 4.0}, {1.0, 2.5, 5.7}},    // PCIe
    {{5.0, 8.5, 14.0}, {2.7, 4.0, 14.0}},  // network
};
constexpr double overhead_us[3] = {1, 1, 3};  // of a step that the network takes part in: at least
constexpr double plateau = 1.4;               // longer steps of an all-reduce's ring Simple
constexpr double tree_share = 0.92;
constexpr double low_latency_rate[2] = {45e9, 35e9};  // two nodes, more
constexpr double low_latency_tree = 1 / 3.8;
constexpr double multicast_us[2] = {25, 20.9};          // in the node; up or down between nodes
constexpr double multicast_rate[2] = {57.7e9, 45.5e9};  // of a rank; two nodes, more

// What tables of two and four nodes say beside NCCL's model (tools/collectives_across.py --fit; derived):
// latencies so many times as long, and what is left of the rates.
constexpr double slower[3] = {1.27, 1.05, 2.0};
constexpr double multicast_slower = 2.9;
constexpr double rate_kept[2][3] = {{1, 0.357, 1}, {1, 0.86, 0.887}};

// Bytes on links as shares of a rank's buffer.
class Load {
 public:
  Load(Routes& routes, const Topology& topology)
      : routes_(routes), topology_(topology), share_(topology.link_count()) {}

  void add(DeviceId from, DeviceId to, double share) {
    const std::vector<LinkId> way = routes_.find(from, to, key_++);
    if (way.empty() && from != to && !error_)
      error_ = invalid_input("no way from " + topology_.device(from).name + " to " +
                             topology_.device(to).name + "; nodes need NICs (nics_per_node)");
    for (const LinkId link : way) share_[link.value()] += share;
  }
  double busiest() const {  // seconds per byte
    double wire = 0;
    for (std::size_t l = 0; l < share_.size(); ++l)
      wire = std::max(wire, share_[l] / static_cast<double>(link(l).bytes_per_second));
    return wire;
  }
  double network_share() const {
    double most = 0;
    for (std::size_t l = 0; l < share_.size(); ++l)
      if (link(l).link_class == LinkClass::network && at_nic(l)) most = std::max(most, share_[l]);
    return most;
  }
  std::vector<LinkId> ports() const {
    return links([this](std::size_t l) { return link(l).link_class == LinkClass::network && at_nic(l); });
  }
  std::vector<LinkId> links() const {
    return links([](std::size_t) { return true; });
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  template <class Which>
  std::vector<LinkId> links(Which which) const {
    std::vector<LinkId> used;
    for (std::size_t l = 0; l < share_.size(); ++l)
      if (share_[l] > 0 && which(l)) used.emplace_back(static_cast<std::uint32_t>(l));
    return used;
  }
  bool at_nic(std::size_t l) const {
    const auto is_nic = [&](DeviceId d) { return topology_.device(d).kind == DeviceKind::nic; };
    return is_nic(link(l).from) || is_nic(link(l).to);
  }
  const Link& link(std::size_t l) const { return topology_.link(LinkId(static_cast<std::uint32_t>(l))); }
  Routes& routes_;
  const Topology& topology_;
  std::vector<double> share_;
  std::uint64_t key_ = 0;
  std::optional<Error> error_;
};

using Groups = std::vector<std::vector<DeviceId>>;

struct Layout {
  std::size_t ranks = 0, each = 0, nodes = 0;  // of a group; ranks of each node
  Hardware inside = Hardware::scale_up;
  bool mesh = false;       // GPUs of a node are joined pair by pair
  bool multicast = false;  // by a switch that adds up
};

Result<std::size_t> ranks_of_each_node(const Topology& topology, const std::vector<DeviceId>& ranks) {
  std::map<std::int32_t, std::size_t> count;
  for (const DeviceId rank : ranks) ++count[topology.device(rank).node];
  const std::size_t each = count.begin()->second;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const std::int32_t node = topology.device(ranks[i]).node;
    if (count[node] != each || topology.device(ranks[i - i % each]).node != node)
      return invalid_input(
          "ranks that a collective joins over several nodes must be equally many on each, node after node");
  }
  return each;
}

Result<Layout> layout_of(Routes& routes, const Topology& topology, const Groups& groups) {
  Layout layout;
  for (const std::vector<DeviceId>& group : groups) {
    ORRERY_CHECK(group.size() >= 2, "a collective needs two ranks");
    ORRERY_TRY(each, ranks_of_each_node(topology, group));
    if (layout.ranks != 0 && (layout.ranks != group.size() || layout.each != each))
      return invalid_input("groups of ranks that work alike must stand on equally many nodes");
    layout.ranks = group.size();
    layout.each = each;
  }
  layout.nodes = layout.ranks / layout.each;
  if (layout.each > 1) {
    const std::vector<LinkId> way = routes.find(groups[0][0], groups[0][1], 0);
    layout.mesh = way.size() == 1;
    const bool pcie = !way.empty() && topology.link(way.front()).link_class == LinkClass::pcie;
    layout.inside = pcie ? Hardware::pcie : Hardware::scale_up;
    layout.multicast =
        way.size() == 2 && topology.device(topology.link(way.front()).to).kind == DeviceKind::nvswitch;
  }
  return layout;
}

// Every rank sends `share` of the buffer on to its neighbours in its node.
void load_node_rings(const Groups& groups, const Layout& layout, double share, Load& load) {
  const std::size_t each = layout.each;
  if (each < 2) return;
  for (const std::vector<DeviceId>& group : groups) {
    for (std::size_t i = 0; i < group.size(); ++i) {
      const std::size_t first = i - i % each;
      if (!layout.mesh) {
        load.add(group[i], group[first + (i + 1) % each], share);
        continue;
      }
      for (std::size_t j = first; j < first + each; ++j)
        if (j != i) load.add(group[i], group[j], share / static_cast<double>(each - 1));
    }
  }
}

// From node to node on every rail.
void load_rails(const Groups& groups, const Layout& layout, double share, Load& load) {
  for (const std::vector<DeviceId>& group : groups)
    for (std::size_t i = 0; i < group.size(); ++i)
      load.add(group[i], group[(i + layout.each) % group.size()], share / static_cast<double>(layout.each));
}

// Two binary trees of nodes over halves of the buffer, up and down, on every rail; chains inside nodes.
void load_trees(const Groups& groups, const Layout& layout, Load& load) {
  const std::size_t each = layout.each, nodes = layout.nodes;
  const double half = 0.5 / static_cast<double>(each);
  for (const std::vector<DeviceId>& group : groups) {
    for (std::size_t rail = 0; rail < each; ++rail) {
      for (std::size_t n = 1; n < nodes; ++n) {
        for (const bool reversed : {false, true}) {
          const std::size_t above = (n - 1) / 2;
          const DeviceId child = group[(reversed ? nodes - 1 - n : n) * each + rail];
          const DeviceId parent = group[(reversed ? nodes - 1 - above : above) * each + rail];
          load.add(child, parent, half);
          load.add(parent, child, half);
        }
      }
    }
  }
}

void load_node_chains(const Groups& groups, const Layout& layout, Load& load) {
  for (const std::vector<DeviceId>& group : groups) {
    for (std::size_t i = 1; i < group.size(); ++i) {
      if (i % layout.each == 0) continue;
      load.add(group[i - 1], group[i], 1);
      load.add(group[i], group[i - 1], 1);
    }
  }
}

struct Wires {
  double inside = 0, between = 0, network_share = 0;
};

Result<Wires> wires_of(const Load& inside, const Load& all) {
  for (const Load* load : {&inside, &all})
    if (load->error()) return *load->error();
  return Wires{inside.busiest(), all.busiest(), all.network_share()};
}

std::size_t log2_of(std::size_t nodes) {
  std::size_t depth = 0;
  while ((std::size_t{2} << depth) <= nodes) ++depth;  // ⌊log2⌋
  return depth;
}

double steps_us(Shape shape, std::size_t protocol, const Layout& layout, std::size_t rounds) {
  const auto a = static_cast<std::size_t>(shape);
  const double inside = hop_us[static_cast<std::size_t>(layout.inside)][a][protocol];
  // A ring of one rank a node has a tree's hops: nothing hides them (ncclTopoTuneModel, `ppn == 1`).
  const std::size_t exposed = layout.each < 2 ? static_cast<std::size_t>(Shape::tree) : a;
  const double between = hop_us[static_cast<std::size_t>(Hardware::network)][exposed][protocol];
  const auto n = static_cast<double>(layout.ranks), nodes = static_cast<double>(layout.nodes);
  if (shape == Shape::ring)
    return static_cast<double>(rounds) *
           ((n - nodes) * std::max(inside, overhead_us[protocol]) + (nodes - 1) * between);
  return 2 * (static_cast<double>(layout.each - 1) * inside +
              static_cast<double>(log2_of(layout.nodes)) * between);
}

// One entry a protocol. `sent`: of a rank's buffer, what it sends in all.
void add_ways(Shape shape, const Wires& wires, const Layout& layout, std::size_t rounds, double sent,
              std::vector<AcrossWay>& out) {
  const bool tree = shape == Shape::tree;
  const auto s = static_cast<std::size_t>(shape);
  for (std::size_t p = 0; p < protocols.size(); ++p) {
    if (p == 1 && layout.inside == Hardware::pcie) continue;  // LL128 needs NVLink between the GPUs of a node
    double share = rate_kept[s][p];
    if (p == 1) share *= 0.92;
    if (p == 0) share *= tree ? low_latency_tree : 0.5;
    if (tree) share *= tree_share;
    double latency = base_us[s][p] + steps_us(shape, p, layout, rounds);
    if (p == 2 && !tree && rounds == 2) latency *= plateau;
    AcrossWay way;
    way.name = std::string(tree ? "tree " : "ring ") + protocols[p];
    way.latency = latency * slower[p] * 1e-6;
    way.inside = wires.inside / share;
    way.between = wires.between / share;
    const double low_latency = low_latency_rate[layout.nodes > 2 ? 1 : 0];
    if (p == 0) way.between = std::max(way.between, (tree ? 2 : sent) / low_latency);
    way.network_share = wires.network_share;
    out.push_back(std::move(way));
  }
}

// Trees of nodes whose leaves are NVSwitches that add up and spread (NCCL's NVLS tree).
void add_multicast(const Wires& wires, const Layout& layout, double sent, std::vector<AcrossWay>& out) {
  AcrossWay way;
  way.name = "NVLS tree";
  way.multicast = true;
  way.latency = (multicast_us[0] + 2 * static_cast<double>(log2_of(layout.nodes)) * multicast_us[1]) *
                multicast_slower * 1e-6;
  way.inside = wires.inside;
  const double rate = static_cast<double>(layout.each) * multicast_rate[layout.nodes > 2 ? 1 : 0];
  way.between = std::max(wires.between, sent / rate);
  way.network_share = wires.network_share;
  out.push_back(std::move(way));
}

Status add_trees(Routes& routes, const Topology& topology, const Groups& groups, const Layout& layout,
                 double sent, std::vector<AcrossWay>& ways) {
  Load chains(routes, topology), trees(routes, topology);
  for (Load* load : {&chains, &trees}) load_node_chains(groups, layout, *load);
  load_trees(groups, layout, trees);
  ORRERY_TRY(wires, wires_of(chains, trees));
  if (layout.nodes == 2) wires.between *= 2;  // NCCL counts bytes up and down, which two nodes send once
  add_ways(Shape::tree, wires, layout, 2, sent, ways);
  if (!layout.multicast || layout.each < 2) return ok_status();
  // A GPU sends its buffer into the switch and its part of the sum out of it again.
  Load switches(routes, topology), nodes(routes, topology);
  load_node_rings(groups, layout, 1 + 1 / static_cast<double>(layout.each), switches);
  load_trees(groups, layout, nodes);
  add_multicast({switches.busiest(), nodes.busiest(), nodes.network_share()}, layout, sent, ways);
  return ok_status();
}

// Whether the ways of this collective stand among nodes like those of the published tables: NVSwitches, and
// for each GPU what a NIC of 400 Gb/s carries (`ring`: of the ring's bytes, of which a rank sends `sent`).
bool like_tables(const Layout& layout, CollectiveOp op, const Wires& ring, double sent) {
  if (op == CollectiveOp::reduce_scatter || !layout.multicast || layout.each < 2) return false;
  const double table = sent / static_cast<double>(layout.each) / 50e9;
  return std::abs(ring.between / table - 1) < 1e-3;
}

// One network hop with whichever of the two protocols of point-to-point transfers.
void add_direct(const char* name, const Wires& wires, std::vector<AcrossWay>& out) {
  for (const std::size_t p : {std::size_t{0}, std::size_t{2}}) {
    const double share = p == 0 ? 0.5 : 1.0;
    out.push_back({std::string(name) + " " + protocols[p],
                   (base_us[1][p] + hop_us[static_cast<std::size_t>(Hardware::network)][1][p]) * 1e-6,
                   wires.inside / share, wires.between / share, wires.network_share});
  }
}

void load_pairs(const Topology& topology, const Groups& groups, bool between, Load& load) {
  for (const std::vector<DeviceId>& group : groups) {
    const double part = 1 / static_cast<double>(group.size());
    for (const DeviceId a : group)
      for (const DeviceId b : group)
        if (a != b && (between || topology.device(a).node == topology.device(b).node)) load.add(a, b, part);
  }
}

}  // namespace

std::int32_t nodes_of(const Topology& topology, const std::vector<DeviceId>& ranks) {
  std::vector<std::int32_t> nodes;
  for (const DeviceId rank : ranks) nodes.push_back(topology.device(rank).node);
  std::sort(nodes.begin(), nodes.end());
  return static_cast<std::int32_t>(std::unique(nodes.begin(), nodes.end()) - nodes.begin());
}

bool crosses_nodes(const Topology& topology, const std::vector<DeviceId>& ranks) {
  return nodes_of(topology, ranks) > 1;
}

Result<std::vector<AcrossWay>> ways_across(Routes& routes, const Topology& topology, const Groups& groups,
                                           CollectiveOp op) {
  ORRERY_TRY(layout, layout_of(routes, topology, groups));
  std::vector<AcrossWay> ways;
  if (op == CollectiveOp::all_to_all) {
    Load inside(routes, topology), all(routes, topology);
    load_pairs(topology, groups, false, inside);
    load_pairs(topology, groups, true, all);
    ORRERY_TRY(wires, wires_of(inside, all));
    add_direct("direct", wires, ways);
    return ways;
  }
  const bool reduce = op == CollectiveOp::all_reduce;
  if (!reduce && op != CollectiveOp::all_gather && op != CollectiveOp::reduce_scatter)
    return invalid_input("between nodes there is no price for " +
                         collective_op_names[static_cast<std::size_t>(op)] +
                         "; all_reduce, all_gather, reduce_scatter and all_to_all have one");
  const auto n = static_cast<double>(layout.ranks), each = static_cast<double>(layout.each);
  const std::size_t rounds = reduce ? 2 : 1;
  const double sent = static_cast<double>(rounds) * (n - 1) / n;
  Load inside(routes, topology), all(routes, topology);
  for (Load* load : {&inside, &all}) load_node_rings(groups, layout, sent * (each - 1) / each, *load);
  load_rails(groups, layout, sent, all);
  ORRERY_TRY(wires, wires_of(inside, all));
  add_ways(Shape::ring, wires, layout, rounds, sent, ways);
  if (reduce) ORRERY_TRY_STATUS(add_trees(routes, topology, groups, layout, sent, ways));
  for (AcrossWay& way : ways) way.compared = like_tables(layout, op, wires, sent);
  return ways;
}

Result<std::vector<AcrossWay>> ways_of_send(Routes& routes, const Topology& topology, const Groups& pairs) {
  Load inside(routes, topology), all(routes, topology);
  for (const std::vector<DeviceId>& pair : pairs) {
    ORRERY_CHECK(pair.size() == 2, "one sends, one receives");
    all.add(pair[0], pair[1], 1);
  }
  ORRERY_TRY(wires, wires_of(inside, all));
  std::vector<AcrossWay> ways;
  add_direct("send", wires, ways);
  return ways;
}

Result<LinkLoad> inside_load(Routes& routes, const Topology& topology, const Groups& groups) {
  if (groups.empty() || groups.front().size() < 2) return LinkLoad{};
  ORRERY_TRY(layout, layout_of(routes, topology, groups));
  Load rings(routes, topology);
  load_node_rings(groups, layout, 1, rings);
  if (rings.error()) return *rings.error();
  return LinkLoad{rings.links(), rings.busiest()};
}

Result<LinkLoad> between_load(Routes& routes, const Topology& topology, const Groups& groups) {
  if (groups.empty() || groups.front().size() < 2) return LinkLoad{};
  ORRERY_TRY(layout, layout_of(routes, topology, groups));
  if (layout.nodes < 2) return LinkLoad{};
  Load rails(routes, topology);
  load_rails(groups, layout, 1, rails);
  if (rails.error()) return *rails.error();
  return LinkLoad{rails.ports(), rails.busiest()};
}

Result<LinkLoad> send_load(Routes& routes, const Topology& topology, const Groups& pairs) {
  Load sent(routes, topology);
  for (const std::vector<DeviceId>& pair : pairs) sent.add(pair[0], pair[1], 1);
  if (sent.error()) return *sent.error();
  return LinkLoad{sent.links(), sent.busiest()};
}

}  // namespace orrery::fabric
