// Collectives inside one scale-up domain, as vLLM 0.24 dispatches them without flashinfer or symmetric
// memory: a custom one- or two-shot kernel below a size, NCCL/RCCL above (../shared/reference/vllm_0_24.md
// §7). Over several nodes the custom kernel is off (`in_the_same_node_as`, custom_all_reduce.py), and NCCL
// takes the quickest of its ways.
#pragma once

#include <cstdint>
#include <string>

#include "costmodel/group_links.h"
#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

// `bytes`: the full buffer of one rank (interfaces §7). Precondition: ranks ≥ 2 and the part has links.
OpCost collective_cost(const Roofline& roofline, Collective collective, double bytes, std::int32_t ranks);

// What each further tensor of one group of NCCL collectives (ncclGroupStart … End) adds to its start.
double further_tensor_ns(const Roofline& roofline, std::int32_t ranks);

// Sizes strictly below this use the custom all-reduce (SM90: 8 MiB up to four ranks, 256 KiB at eight; AMD's
// meshes: 8 MiB, max_size of vLLM's custom_all_reduce.py; SGLang's has 16 there).
double custom_all_reduce_limit(std::int32_t ranks, bool meshed);

// Over the nodes of `group`, by its quickest way. Precondition: group.crosses(), and it has a way. The error
// is at least twice that of collectives inside a node; `across_error` where tables of such nodes were
// compared (reports/results/collectives_across.md), else `unseen_error`.
OpCost across_nodes_cost(const Roofline& roofline, Collective collective, double bytes,
                         const GroupLinks& group);
const CollectiveWay& quickest_way(const Roofline& roofline, Collective collective, double bytes,
                                  const GroupLinks& group);
double way_ns(const Roofline& roofline, const CollectiveWay& way, double bytes);
constexpr double unseen_error = 0.3;   // one standard deviation of log(time); assumed
constexpr double across_error = 0.22;  // root mean square of log(time) over sizes that were not fitted

}  // namespace orrery
