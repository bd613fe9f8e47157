#include "sim/fabric/routes.h"

#include <algorithm>
#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/breadth_first_search.hpp>
#include <boost/graph/filtered_graph.hpp>
#include <boost/graph/reverse_graph.hpp>

namespace orrery::fabric {

namespace {

constexpr std::uint16_t unreached = 65535;

// Vertices are devices, edges link directions; the descriptors are the topology's ids.
using DeviceGraph = boost::adjacency_list<boost::vecS, boost::vecS, boost::bidirectionalS, boost::no_property,
                                          boost::property<boost::edge_index_t, std::uint32_t>>;

// A direction is open when it works and does not leave a GPU that is not the route's start. Distances are
// taken towards a target, so the start is unknown: GPUs other than the target stay leaves of the search
// instead, since the search runs backwards and may enter a GPU but not go on from it.
struct OpenLink {
  const Topology* topology = nullptr;
  const DeviceGraph* graph = nullptr;
  const std::vector<bool>* failed = nullptr;
  std::uint32_t target = 0;
  template <class Edge>
  bool operator()(const Edge& edge) const {
    const auto id = boost::get(boost::edge_index, *graph, edge);
    const DeviceId to = topology->link(LinkId(id)).to;
    if ((*failed)[id]) return false;
    return to.value() == target || topology->device(to).kind != DeviceKind::gpu;
  }
};

// SplitMix64's finaliser (Steele et al., OOPSLA 2014): spreads keys that differ in a few bits.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

struct Routes::Graph {
  DeviceGraph devices;
};

Routes::Routes(const Topology& topology)
    : topology_(topology), failed_(topology.link_count(), false), to_(topology.device_count()) {
  DeviceGraph graph(topology.device_count());
  for (std::uint32_t id = 0; id < topology.link_count(); ++id) {
    const Link& link = topology.link(LinkId(id));
    boost::add_edge(link.from.value(), link.to.value(), id, graph);
  }
  graph_ = std::make_shared<const Graph>(Graph{std::move(graph)});
}

const Routes::Distances& Routes::distances(DeviceId to) {
  Distances& found = to_[to.value()];
  if (!found.empty()) return found;
  found.assign(topology_.device_count(), unreached);
  found[to.value()] = 0;
  const OpenLink open{&topology_, &graph_->devices, &failed_, to.value()};
  const boost::filtered_graph<DeviceGraph, OpenLink> usable(graph_->devices, open);
  const auto backwards = boost::make_reverse_graph(usable);
  const auto record = boost::record_distances(found.data(), boost::on_tree_edge());
  boost::breadth_first_search(backwards, static_cast<DeviceGraph::vertex_descriptor>(to.value()),
                              boost::visitor(boost::make_bfs_visitor(record)));
  return found;
}

LinkId Routes::choose(const std::vector<LinkId>& equal, DeviceId from, DeviceId to, DeviceId at,
                      std::uint64_t key) const {
  if (equal.size() == 1) return equal.front();
  const Device& next = topology_.device(topology_.link(equal.front()).to);
  if (next.kind == DeviceKind::nic) {
    const Device& end = topology_.device(topology_.device(at).kind == DeviceKind::leaf ? to : from);
    return equal[static_cast<std::size_t>(end.index) % equal.size()];
  }
  if (next.kind == DeviceKind::leaf && topology_.device(at).kind == DeviceKind::spine)
    return equal[static_cast<std::size_t>(topology_.device(to).index) % equal.size()];
  return equal[mix(key ^ mix(at.value() + 0x9e3779b97f4a7c15ULL)) % equal.size()];
}

bool Routes::reachable(DeviceId from, DeviceId to) { return distances(to)[from.value()] != unreached; }

std::vector<LinkId> Routes::find(DeviceId from, DeviceId to, std::uint64_t key) {
  std::vector<LinkId> route, equal;
  const Distances& left = distances(to);
  if (left[from.value()] == unreached) return route;
  for (DeviceId at = from; at != to;) {
    equal.clear();
    const auto [begin, end] = boost::out_edges(at.value(), graph_->devices);
    for (auto edge = begin; edge != end; ++edge) {
      const LinkId link(boost::get(boost::edge_index, graph_->devices, *edge));
      const DeviceId next = topology_.link(link).to;
      const bool ends = next == to || topology_.device(next).kind != DeviceKind::gpu;
      if (!failed_[link.value()] && ends && left[next.value()] + 1 == left[at.value()]) equal.push_back(link);
    }
    std::int64_t most = 0;
    for (const LinkId link : equal) most = std::max(most, topology_.link(link).bytes_per_second);
    const auto narrower = [&](LinkId link) { return topology_.link(link).bytes_per_second < most; };
    equal.erase(std::remove_if(equal.begin(), equal.end(), narrower), equal.end());
    std::sort(equal.begin(), equal.end());
    route.push_back(choose(equal, from, to, at, key));
    at = topology_.link(route.back()).to;
  }
  return route;
}

void Routes::fail(LinkId link) {
  failed_[link.value()] = true;
  for (Distances& known : to_) known.clear();
}

void Routes::restore(LinkId link) {
  failed_[link.value()] = false;
  for (Distances& known : to_) known.clear();
}

}  // namespace orrery::fabric
