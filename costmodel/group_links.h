// Collectives of an instance whose GPUs stand on several nodes, as plain figures: whoever has the topology
// fills them in (sim/costed/plan_links.h), for the cost model knows no fabric. Without them every group of
// ranks stands inside one scale-up domain.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace orrery {

enum class Collective : std::uint8_t { all_reduce, all_gather, reduce_scatter, all_to_all, send_recv };
constexpr std::size_t collective_count = 5;
const char* to_string(Collective collective);

// One way that a library can take: latency + bytes · (whichever is longer of the way inside a node and the
// way between nodes, which a ring or tree keeps busy at once). `bytes` as in interfaces §7.
struct CollectiveWay {
  std::string name;          // "ring LL128"
  double latency_ns = 0;     // of all serial steps
  double inside_ns = 0;      // per byte: busiest link inside a node, at its data-sheet rate
  double between_ns = 0;     // per byte: busiest link of all
  double network_share = 0;  // of a rank's buffer: bytes over the busiest link between nodes
  bool compared = false;     // with measured tables, among such nodes
  friend bool operator==(const CollectiveWay&, const CollectiveWay&) = default;
};

struct GroupLinks {
  std::int32_t ranks = 1, nodes = 1;
  // By Collective; empty = that collective has no price over these nodes.
  std::array<std::vector<CollectiveWay>, collective_count> ways{};
  bool crosses() const { return nodes > 1; }
  const std::vector<CollectiveWay>& of(Collective c) const { return ways[static_cast<std::size_t>(c)]; }
  friend bool operator==(const GroupLinks&, const GroupLinks&) = default;
};

// The groups of ranks that collectives join (costmodel/graph_nodes.h).
struct PlanLinks {
  GroupLinks tensor;                // the tp GPUs of a rank, or of a stage
  GroupLinks data;                  // the GPUs with the same place in their data-parallel ranks
  GroupLinks all;                   // all tp·dp·cp
  GroupLinks context;               // the ranks of context parallelism
  std::vector<GroupLinks> handoff;  // by pipeline stage: from the stage before it; the first has none
  bool crosses() const {
    return tensor.crosses() || data.crosses() || all.crosses() || context.crosses() ||
           std::any_of(handoff.begin(), handoff.end(), [](const GroupLinks& g) { return g.crosses(); });
  }
};

}  // namespace orrery
