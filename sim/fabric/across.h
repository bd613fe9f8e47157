// Collectives whose ranks stand on several nodes: what NCCL's own model of its ways says, with bytes routed
// over the topology.
//
// Ways, latencies and rates: NVIDIA/nccl 2.30.7 src/graph/tuning.cc (ncclTunerConstantsDefaults of Hopper,
// ncclTopoTuneModel, ncclTopoGetAlgoTime). RCCL and xGMI are taken for NCCL and NVLink. A ring takes
// base + (steps − steps between nodes) · inside hop + steps between nodes · network hop (a tree's with one
// rank a node); a tree, for an all-reduce alone, base + 2 · ((ranks of a node − 1) · inside hop + log2(nodes)
// · network hop). LL128 leaves 120 of 128 bytes for data, taken as 0.92; LL half of them (in a tree a 3.8th),
// and at most 45 GB/s a rank's ring on two nodes, 35 on more (the row of Hopper; NCCL takes that of the CPU,
// 39 and 20 on Intel); trees 0.92 of the links. Where GPUs of a node hang on NVSwitches there is a tree whose
// leaves are those (NVLS), at most 57.7 GB/s a GPU on two nodes, 45.5 on more. Rings run over every rail, so
// that a node's NICs share what leaves it. Published tables of nccl-tests on two and four nodes say how much
// longer each protocol takes than NCCL thinks, and what rates are left; they are compared with those and
// others in reports/results/collectives_across.md. The corrections that NCCL itself makes for trees by size
// are within that. All-to-all and send have no entry there: one network hop, assumed, every pair at once,
// compared with nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/fabric/collectives.h"

namespace orrery::fabric {

struct AcrossWay {
  std::string name;          // "ring LL128", "NVLS tree"
  double latency = 0;        // seconds, of all serial steps
  double inside = 0;         // seconds per byte of a rank's buffer: busiest link inside a node
  double between = 0;        // likewise: busiest link of all
  double network_share = 0;  // of a rank's buffer: bytes over the busiest NIC port
  bool multicast = false;    // needs NVLS
  bool compared = false;     // tables were, among such nodes
};

// Whether GPUs stand on more than one node.
bool crosses_nodes(const Topology& topology, const std::vector<DeviceId>& ranks);
std::int32_t nodes_of(const Topology& topology, const std::vector<DeviceId>& ranks);

// The ways of one collective in groups that work at the same time, all alike: as many ranks, on as many
// nodes. `send`: every group is two ranks, the first sends. Errors: unequal groups or nodes, no way between
// two ranks.
Result<std::vector<AcrossWay>> ways_across(Routes& routes, const Topology& topology,
                                           const std::vector<std::vector<DeviceId>>& groups, CollectiveOp op);
Result<std::vector<AcrossWay>> ways_of_send(Routes& routes, const Topology& topology,
                                            const std::vector<std::vector<DeviceId>>& pairs);

// Links that groups (as many ranks each; one of them: no links) use all alike, and what the busiest of them
// takes for a byte that every rank passes on.
struct LinkLoad {
  std::vector<LinkId> links;  // once each, by id
  double wire = 0;            // seconds; 0 without links
};
// Inside nodes: rings, or in a mesh every pair.
Result<LinkLoad> inside_load(Routes& routes, const Topology& topology,
                             const std::vector<std::vector<DeviceId>>& groups);
// Between nodes: rings on every rail; the links are the NICs' ports, the busiest is of all.
Result<LinkLoad> between_load(Routes& routes, const Topology& topology,
                              const std::vector<std::vector<DeviceId>>& groups);
// From the first of each pair to the second.
Result<LinkLoad> send_load(Routes& routes, const Topology& topology,
                           const std::vector<std::vector<DeviceId>>& pairs);

}  // namespace orrery::fabric
