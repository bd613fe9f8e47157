#include "sim/costed/link_sides.h"

#include <algorithm>

namespace orrery {

Result<LinkSide> link_side(fabric::Routes& routes, const fabric::Topology& topology, LinkSide::Kind kind,
                           RankGroups groups) {
  LinkSide side;
  side.kind = kind;
  side.groups = std::move(groups);
  if (side.groups.empty()) return side;
  auto load = kind == LinkSide::Kind::inside    ? fabric::inside_load(routes, topology, side.groups)
              : kind == LinkSide::Kind::between ? fabric::between_load(routes, topology, side.groups)
                                                : fabric::send_load(routes, topology, side.groups);
  if (!load.ok()) return load.errors();
  side.links = std::move(load.value().links);
  side.wire = load.value().wire;
  return side;
}

std::vector<DeviceId> hosts_of(fabric::Routes& routes, const fabric::Topology& topology,
                               const std::vector<DeviceId>& gpus) {
  std::vector<DeviceId> hosts;
  for (const DeviceId gpu : gpus) {
    DeviceId nearest = DeviceId::none();
    std::size_t least = 0;
    for (std::size_t i = 0; i < topology.device_count(); ++i) {
      const DeviceId host(static_cast<std::uint32_t>(i));
      const fabric::Device& device = topology.device(host);
      if (device.kind != fabric::DeviceKind::host || device.node != topology.device(gpu).node) continue;
      const std::size_t way = routes.find(host, gpu, 0).size();
      if (way == 0 || (!nearest.is_none() && way >= least)) continue;
      nearest = host;
      least = way;
    }
    hosts.push_back(nearest);
  }
  return hosts;
}

Result<std::vector<LinkSide>> link_sides(fabric::Routes& routes, const fabric::Topology& topology,
                                         const std::vector<DeviceId>& gpus, const ParallelPlan& plan,
                                         bool host_memory) {
  using Kind = LinkSide::Kind;
  std::vector<LinkSide> sides;
  const auto add = [&](Kind kind, RankGroups groups) -> Status {
    ORRERY_TRY(side, link_side(routes, topology, kind, std::move(groups)));
    sides.push_back(std::move(side));
    return ok_status();
  };
  const std::vector<DeviceId> hosts =
      host_memory ? hosts_of(routes, topology, gpus) : std::vector<DeviceId>();
  ORRERY_TRY_STATUS(add(Kind::send, host_memory ? pairs_to(hosts, gpus) : RankGroups()));
  ORRERY_TRY_STATUS(add(Kind::send, host_memory ? pairs_to(gpus, hosts) : RankGroups()));
  if (plan.pp == 1) {
    const RankGroups all = gpus.size() > 1 ? RankGroups{gpus} : RankGroups();
    ORRERY_TRY_STATUS(add(Kind::inside, all));
    ORRERY_TRY_STATUS(add(Kind::between, all));
    return sides;
  }
  const RankGroups stages = tensor_groups(gpus, plan);
  for (std::size_t s = 0; s < stages.size(); ++s) {
    const bool alone = plan.tp == 1, crosses = fabric::crosses_nodes(topology, stages[s]);
    ORRERY_TRY_STATUS(
        add(crosses ? Kind::between : Kind::inside, alone ? RankGroups() : RankGroups{stages[s]}));
    ORRERY_TRY_STATUS(add(Kind::send, s == 0 ? RankGroups() : pairs_to(stages[s - 1], stages[s])));
  }
  return sides;
}

// Between nodes prices are by the topology already.
void compare_rates(const HardwareProfile& hardware, const ParallelPlan& plan, std::vector<LinkSide>& sides) {
  const double all = hardware.link_bandwidth.value.value(), pair = hardware.link_pair_bandwidth.value.value();
  for (std::size_t i = inside_side(); i < sides.size(); ++i) {
    LinkSide& side = sides[i];
    if (side.kind == LinkSide::Kind::between || side.wire == 0 || all <= 0) continue;
    const double peers =
        side.kind == LinkSide::Kind::send ? 1 : static_cast<double>(plan.tp * plan.dp * plan.cp - 1);
    side.of_priced = side.wire * std::min(all, pair * peers);
  }
}

}  // namespace orrery
