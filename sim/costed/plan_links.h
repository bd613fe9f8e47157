// Which groups of an instance's ranks stand on several nodes of a topology, and what their collectives take
// there: figures of sim/fabric/across.h as the plain data that the cost model prices with.
//
// Ranks are numbered as engines do: tensor-parallel ranks innermost, around them pipeline stages or
// data-parallel ranks (which do not meet).
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "costmodel/group_links.h"
#include "costmodel/parallel_plan.h"
#include "sim/fabric/routes.h"
#include "sim/fabric/topology.h"

namespace orrery {

using RankGroups = std::vector<std::vector<DeviceId>>;
RankGroups tensor_groups(const std::vector<DeviceId>& gpus, const ParallelPlan& plan);
RankGroups data_groups(const std::vector<DeviceId>& gpus, const ParallelPlan& plan);
// The first to the first, the second to the second, …, where there are both.
RankGroups pairs_to(const std::vector<DeviceId>& from, const std::vector<DeviceId>& to);

// Of context parallelism: the GPUs of tp in `cache_ranks` neighbours each, or with the same place in their
// copy of attention.
RankGroups context_groups(const std::vector<DeviceId>& gpus, const ParallelPlan& plan,
                          std::int32_t cache_ranks);

// Null when every group stands in one node. `multicast`: NCCL may use NVSwitches that add up (SGLang sets
// NCCL_NVLS_ENABLE to 0 unless asked, entrypoints/engine.py). Errors: groups that do not divide evenly over
// nodes, no way.
Result<std::shared_ptr<const PlanLinks>> plan_links(const fabric::Topology& topology,
                                                    const std::vector<DeviceId>& gpus,
                                                    const ParallelPlan& plan, std::int32_t cache_ranks = 1,
                                                    bool multicast = true);

// What a node's NICs send into the network, shared out over its GPUs; bytes a second. 0 without NICs.
double network_rate_per_gpu(const fabric::Topology& topology, std::int32_t node);

}  // namespace orrery
