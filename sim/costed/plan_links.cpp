#include "sim/costed/plan_links.h"

#include <algorithm>

#include "sim/fabric/across.h"

namespace orrery {

namespace {

using fabric::AcrossWay;
using fabric::CollectiveOp;

std::vector<CollectiveWay> in_nanoseconds(const std::vector<AcrossWay>& ways) {
  std::vector<CollectiveWay> out;
  for (const AcrossWay& way : ways)
    out.push_back(
        {way.name, way.latency * 1e9, way.inside * 1e9, way.between * 1e9, way.network_share, way.compared});
  return out;
}

class Planner {
 public:
  Planner(const fabric::Topology& topology, bool multicast)
      : topology_(topology), routes_(topology), multicast_(multicast) {}

  // `all_pairs`: with an all-to-all, which experts' weights move by.
  Result<GroupLinks> links(const RankGroups& groups, bool all_pairs) {
    GroupLinks links;
    const auto crosses = [&](const auto& group) { return fabric::crosses_nodes(topology_, group); };
    if (std::none_of(groups.begin(), groups.end(), crosses)) return links;
    links.ranks = static_cast<std::int32_t>(groups.front().size());
    links.nodes = fabric::nodes_of(topology_, groups.front());
    const auto add = [&](Collective collective, CollectiveOp op) -> Status {
      ORRERY_TRY(ways, fabric::ways_across(routes_, topology_, groups, op));
      if (!multicast_) std::erase_if(ways, [](const AcrossWay& way) { return way.multicast; });
      links.ways[static_cast<std::size_t>(collective)] = in_nanoseconds(ways);
      return ok_status();
    };
    ORRERY_TRY_STATUS(add(Collective::all_reduce, CollectiveOp::all_reduce));
    ORRERY_TRY_STATUS(add(Collective::all_gather, CollectiveOp::all_gather));
    ORRERY_TRY_STATUS(add(Collective::reduce_scatter, CollectiveOp::reduce_scatter));
    if (all_pairs) ORRERY_TRY_STATUS(add(Collective::all_to_all, CollectiveOp::all_to_all));
    return links;
  }

  // From a stage to the next.
  Result<GroupLinks> handoff(const std::vector<DeviceId>& from, const std::vector<DeviceId>& to) {
    GroupLinks links;
    RankGroups pairs = pairs_to(from, to);
    std::erase_if(pairs, [&](const auto& pair) { return !fabric::crosses_nodes(topology_, pair); });
    if (pairs.empty()) return links;
    links.ranks = links.nodes = 2;
    ORRERY_TRY(ways, fabric::ways_of_send(routes_, topology_, pairs));
    links.ways[static_cast<std::size_t>(Collective::send_recv)] = in_nanoseconds(ways);
    return links;
  }

 private:
  const fabric::Topology& topology_;
  fabric::Routes routes_;
  bool multicast_;
};

}  // namespace

namespace {

// The first n, the next n, ….
RankGroups in_blocks(const std::vector<DeviceId>& gpus, std::int32_t n) {
  RankGroups groups;
  for (auto at = gpus.begin(); at != gpus.end(); at += n) groups.emplace_back(at, at + n);
  return groups;
}

// n groups: every n-th from the first, from the second, ….
RankGroups in_strides(const std::vector<DeviceId>& gpus, std::int32_t n) {
  RankGroups groups(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < gpus.size(); ++i) groups[i % groups.size()].push_back(gpus[i]);
  return groups;
}

}  // namespace

RankGroups pairs_to(const std::vector<DeviceId>& from, const std::vector<DeviceId>& to) {
  RankGroups pairs;
  for (std::size_t i = 0; i < from.size(); ++i)
    if (!from[i].is_none() && !to[i].is_none()) pairs.push_back({from[i], to[i]});
  return pairs;
}

RankGroups tensor_groups(const std::vector<DeviceId>& gpus, const ParallelPlan& plan) {
  return in_blocks(gpus, plan.tp);
}

RankGroups data_groups(const std::vector<DeviceId>& gpus, const ParallelPlan& plan) {
  return in_strides(gpus, plan.tp);
}

RankGroups context_groups(const std::vector<DeviceId>& gpus, const ParallelPlan& plan,
                          std::int32_t cache_ranks) {
  return plan.cp == 1 ? in_blocks(gpus, cache_ranks) : in_strides(gpus, plan.tp);
}

Result<std::shared_ptr<const PlanLinks>> plan_links(const fabric::Topology& topology,
                                                    const std::vector<DeviceId>& gpus,
                                                    const ParallelPlan& plan, std::int32_t cache_ranks,
                                                    bool multicast) {
  if (!fabric::crosses_nodes(topology, gpus)) return std::shared_ptr<const PlanLinks>();
  Planner planner(topology, multicast);
  auto links = std::make_shared<PlanLinks>();
  if (plan.tp > 1) {
    ORRERY_TRY(tensor, planner.links(tensor_groups(gpus, plan), plan.dp == 1 && plan.pp == 1));
    links->tensor = std::move(tensor);
  }
  if (plan.dp > 1) {
    ORRERY_TRY(data, planner.links(data_groups(gpus, plan), false));
    links->data = std::move(data);
  }
  if (plan.pp == 1) {
    ORRERY_TRY(all, planner.links({gpus}, true));
    links->all = std::move(all);
  }
  const std::int32_t context = plan.cp > 1 ? plan.cp : cache_ranks;
  if (context > 1) {
    ORRERY_TRY(group, planner.links(context_groups(gpus, plan, cache_ranks), true));
    links->context = std::move(group);
  }
  const RankGroups stages = tensor_groups(gpus, plan);
  links->handoff.resize(static_cast<std::size_t>(plan.pp));
  for (std::size_t s = 1; s < links->handoff.size(); ++s) {
    ORRERY_TRY(from, planner.handoff(stages[s - 1], stages[s]));
    links->handoff[s] = std::move(from);
  }
  return std::shared_ptr<const PlanLinks>(std::move(links));
}

double network_rate_per_gpu(const fabric::Topology& topology, std::int32_t node) {
  double rate = 0, gpus = 0;
  for (std::size_t i = 0; i < topology.link_count(); ++i) {
    const fabric::Link& l = topology.link(fabric::LinkId(static_cast<std::uint32_t>(i)));
    const fabric::Device& from = topology.device(l.from);
    if (l.link_class == fabric::LinkClass::network && from.kind == fabric::DeviceKind::nic &&
        from.node == node)
      rate += static_cast<double>(l.bytes_per_second);
  }
  for (const DeviceId gpu : topology.gpus()) gpus += topology.device(gpu).node == node ? 1 : 0;
  return gpus > 0 ? rate / gpus : 0;
}

}  // namespace orrery
