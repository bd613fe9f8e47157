#include "sim/costed/weight_loads.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"

namespace orrery {

namespace {

using fabric::DeviceKind;

// Of a pool's server, or of a disk, and what that rests on.
fabric::Figure source_rate(const PoolSpec& pool) {
  if (pool.start.load_gb_per_s > 0)
    return {pool.start.load_gb_per_s * 1e9, fabric::FigureKind::assumed,
            "start.load_gb_per_s of the scenario"};
  const Figure<BytesPerSecond>& load = pool.instance.engine.start->load;
  return {load.value.value(), static_cast<fabric::FigureKind>(load.kind), load.source};
}

std::string source_name(const PoolSpec& pool, std::int32_t node) {
  return node < 0 ? pool.name + ".storage" : pool.name + ".disk" + std::to_string(node);
}

std::vector<DeviceId> of_kind(const fabric::Topology& topology, DeviceKind kind, std::int32_t node) {
  std::vector<DeviceId> found;
  for (std::uint32_t i = 0; i < topology.device_count(); ++i) {
    const fabric::Device& device = topology.device(DeviceId(i));
    if (device.kind == kind && device.node == node) found.push_back(DeviceId(i));
  }
  return found;
}

// Switches that a storage server stands behind: the spines, or where there are none the leaf.
std::vector<DeviceId> behind(const fabric::Topology& topology) {
  std::vector<DeviceId> switches = of_kind(topology, DeviceKind::spine, -1);
  return switches.empty() ? of_kind(topology, DeviceKind::leaf, -1) : switches;
}

// Of places where a way to a GPU may begin the nearest ones first, of these each in turn; then the others,
// for when those are cut off.
std::vector<DeviceId> best_first(const std::vector<DeviceId>& all, DeviceId gpu, std::size_t turn,
                                 fabric::Routes& routes) {
  std::vector<DeviceId> nearest, others;
  std::size_t fewest = SIZE_MAX;
  for (const DeviceId start : all)
    if (routes.reachable(start, gpu)) fewest = std::min(fewest, routes.find(start, gpu, 0).size());
  for (const DeviceId start : all) {
    const bool near = routes.reachable(start, gpu) && routes.find(start, gpu, 0).size() == fewest;
    (near ? nearest : others).push_back(start);
  }
  const auto first = static_cast<std::ptrdiff_t>(nearest.empty() ? 0 : turn % nearest.size());
  std::rotate(nearest.begin(), nearest.begin() + first, nearest.end());
  nearest.insert(nearest.end(), others.begin(), others.end());
  return nearest;
}

void add_source(const PoolSpec& pool, std::int32_t node, fabric::Topology& topology) {
  const fabric::Figure rate = source_rate(pool);
  const std::string name = source_name(pool, node);
  const auto device = [&](const std::string& called) {
    return topology.add_device({.name = called, .kind = DeviceKind::host, .node = -1, .index = 0});
  };
  const auto link_class = node < 0 ? fabric::LinkClass::network : fabric::LinkClass::pcie;
  const std::int64_t bytes = std::max<std::int64_t>(1, round_half_even(rate.value));
  topology.add_link(device(name), device(name + ".port"), link_class, bytes, bytes, SimDuration(0));
  topology.sources.push_back(
      {link_class, name + ", of weights", rate, {0, fabric::FigureKind::assumed, "left out"}});
}

}  // namespace

void add_weight_sources(const std::vector<Yaml>& nodes, const std::vector<const PoolSpec*>& pools,
                        fabric::Topology& topology) {
  const std::int32_t count = topology.nodes();
  for (std::size_t i = 0; i < pools.size() && i < nodes.size(); ++i) {
    const PoolSpec& pool = *pools[i];
    const Yaml key = nodes[i].optional("start").optional("from");
    const bool needs_rate = pool.start.load_gb_per_s < 0 && !pool.instance.engine.start;  // said elsewhere
    if (pool.start.from == WeightSource::storage) {
      if (behind(topology).empty())
        key.fail("topology " + topology.name +
                 " has no leaf or spine that a storage server would stand behind; take host or peer");
      else if (!needs_rate)
        add_source(pool, -1, topology);
    }
    if (pool.start.from != WeightSource::host) continue;
    for (std::int32_t node = 0; node < count; ++node) {
      if (of_kind(topology, DeviceKind::host, node).empty()) {
        key.fail("topology " + topology.name + " has no host on node " + std::to_string(node) +
                 " whose disk would be read; take storage or peer");
        break;
      }
      if (!needs_rate) add_source(pool, node, topology);
    }
  }
}

std::vector<WeightLoads::Plan> weight_plans(const fabric::Topology& topology,
                                            const std::vector<const PoolSpec*>& pools,
                                            const std::vector<std::vector<DeviceId>>& gpus) {
  std::vector<WeightLoads::Plan> plans;
  fabric::Routes routes(topology);
  const auto link_of = [&](const std::string& name) {
    const DeviceId device = topology.find(name);
    for (std::uint32_t l = 0; l < topology.link_count(); ++l)
      if (topology.link(fabric::LinkId(l)).from == device) return fabric::LinkId(l);
    ORRERY_CHECK(false, "a source of weights has a link");
    return fabric::LinkId(0);
  };
  for (const PoolSpec* pool : pools) {
    for (std::int32_t i = 0; i < pool->engines(); ++i) {
      WeightLoads::Plan plan;
      plan.bytes_per_gpu = round_half_even(pool->memory.weights.value());
      const WeightSource from = pool->start.from;
      const std::vector<DeviceId>& own = plan.gpus = gpus[plans.size()];
      for (std::size_t g = 0; g < own.size() && from != WeightSource::own && from != WeightSource::peer;
           ++g) {
        const std::int32_t node = topology.device(own[g]).node;
        const bool storage = from == WeightSource::storage;
        plan.source.push_back(link_of(source_name(*pool, storage ? -1 : node)));
        plan.starts.push_back(best_first(
            storage ? behind(topology) : of_kind(topology, DeviceKind::host, node), own[g], g, routes));
      }
      plans.push_back(std::move(plan));
    }
  }
  return plans;
}

}  // namespace orrery
