// Topologies by name, and the reader of `deployment.topology`: a preset with its numbers, or a file of one's
// own.
#pragma once

#include <string>
#include <vector>

#include "sim/fabric/topology.h"

namespace orrery::fabric {

enum class NetworkKind : std::uint8_t { infiniband, roce };

struct PresetOptions {
  std::string preset;              // one of topology_presets
  std::int32_t nodes = 1;          // 1..1024
  std::int32_t gpus_per_node = 8;  // 1..8; less than 8 on PCIe boxes only
  std::int32_t nics_per_node = 0;  // 1..8 when nodes > 1; 0: none
  double nic_gbps = 0;             // one port, gigabits a second and direction
  NetworkKind network = NetworkKind::infiniband;
  double oversubscription = 1;       // leaf: bandwidth down over bandwidth up; 1..64
  std::int32_t nodes_per_leaf = 32;  // nodes that share a set of leaf switches; 1..1024
  std::int32_t spines = 8;           // 1..64; used when there is more than one leaf
};

struct TopologyPreset {
  const char* name;
  const char* description;
};
extern const std::vector<TopologyPreset> topology_presets;

// Precondition: the options are in their ranges, as read_topology checks. `name` is one of topology_presets.
Topology build_preset(const PresetOptions& options);

// `{preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400, …}` or a path to a topology file, relative
// to `directory`. Errors are reported at the node (or located in the file) and gather in the document's list.
Result<Topology> read_topology(const Yaml& node, const std::string& directory);

// A topology file: `name`, `devices: [{name, kind, node, index}]`, `links: [{between: [a, b], class,
// bandwidth: FIGURE, bandwidth_back: FIGURE (default: as bandwidth), latency: FIGURE}]`. All errors of the
// file at once.
Result<Topology> load_topology(const std::string& path);
Result<Topology> parse_topology(const std::string& text, const std::string& file_name);

}  // namespace orrery::fabric
