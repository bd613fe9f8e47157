#include "sim/fabric/presets.h"

#include <algorithm>

namespace orrery::fabric {

namespace {

constexpr double giga = 1e9;

// Sources of the bandwidths: ../shared/reference/hardware.md section 6 and what it cites.
const Figure nvlink_rate{
    450 * giga, FigureKind::datasheet,
    "NVLink 4: 18 links of 25 GB/s, one direction, to the switches (stas00/ml-engineering "
    "network/README.md @744d01e); the H20 has all 18"};
const Figure xgmi_rate{
    64 * giga, FigureKind::datasheet,
    "Infinity Fabric: one link of 64 GB/s, one direction, to each of 7 peers (AMD CDNA 3 white "
    "paper)"};
const Figure pcie5_rate{63 * giga, FigureKind::datasheet, "PCIe 5 x16 after encoding, one direction"};
const Figure pcie4_rate{31 * giga, FigureKind::datasheet,
                        "PCIe 4 x16 after encoding (stas00/ml-engineering network/README.md @744d01e)"};
const Figure socket_rate{62 * giga, FigureKind::assumed,
                         "three UPI links of 20.8 GB/s; hosts differ: give a topology file"};
const Figure nvlink_latency{300e-9, FigureKind::assumed,
                            "half of 0.6 us, NCCL's hop over NVLink in its LL protocol (NVIDIA/nccl "
                            "src/graph/tuning.cc, hwLat): a GPU to GPU hop crosses two links"};
const Figure xgmi_latency{600e-9, FigureKind::assumed,
                          "as an NVLink hop of NCCL's LL protocol; not measured here"};
const Figure pcie_latency{500e-9, FigureKind::assumed,
                          "half of 1.0 us, NCCL's hop over PCIe in its LL protocol (NVIDIA/nccl "
                          "src/graph/tuning.cc, hwLat)"};
const Figure socket_latency{200e-9, FigureKind::assumed, "no source; well below a PCIe crossing"};
const Figure infiniband_latency{
    450e-9, FigureKind::assumed,
    "with two links and the PCIe ways at both ends 2.9 us; NCCL counts 2.7 us for a hop "
    "over the network in its LL protocol (NVIDIA/nccl src/graph/tuning.cc, hwLat)"};
const Figure roce_latency{900e-9, FigureKind::assumed,
                          "twice InfiniBand's: Ethernet switches; not measured here"};

struct Builder {
  const PresetOptions& options;
  Topology topology;

  DeviceId device(DeviceKind kind, std::int32_t node, std::int32_t index) {
    std::string name = node >= 0 ? "node" + std::to_string(node) + "." : "";
    name += std::string(to_string(kind)) + std::to_string(index);
    return topology.add_device({std::move(name), kind, node, index});
  }
  void note(LinkClass link_class, const char* what, const Figure& rate, const Figure& latency) {
    for (const LinkSource& known : topology.sources)
      if (known.what == what) return;
    topology.sources.push_back({link_class, what, rate, latency});
  }
  void link(DeviceId a, DeviceId b, LinkClass link_class, const char* what, const Figure& rate,
            const Figure& latency) {
    note(link_class, what, rate, latency);
    const std::int64_t bytes = round_half_even(rate.value);
    topology.add_link(a, b, link_class, bytes, bytes, duration_from_seconds(latency.value));
  }
};

struct Node {
  std::vector<DeviceId> gpus, nics;
};

// Two sockets, four PCIe switches, two GPUs on each; NICs spread over the switches. The order of PCIe slots
// differs from host to host: this one is assumed and stated in docs/fabric.md.
Node add_node(Builder& b, std::int32_t node, const Figure& pcie, bool switches) {
  Node made;
  const std::int32_t gpus = b.options.gpus_per_node;
  for (std::int32_t i = 0; i < gpus; ++i) made.gpus.push_back(b.device(DeviceKind::gpu, node, i));
  const DeviceId host0 = b.device(DeviceKind::host, node, 0), host1 = b.device(DeviceKind::host, node, 1);
  b.link(host0, host1, LinkClass::socket, "CPU to CPU", socket_rate, socket_latency);
  std::vector<DeviceId> ports;
  for (std::int32_t i = 0; i < 4; ++i) {
    const DeviceId host = i < 2 ? host0 : host1;
    if (!switches) {
      ports.push_back(host);
      continue;
    }
    ports.push_back(b.device(DeviceKind::pcie_switch, node, i));
    b.link(ports.back(), host, LinkClass::pcie, "PCIe switch to CPU", pcie, pcie_latency);
  }
  for (std::int32_t i = 0; i < gpus; ++i)
    b.link(made.gpus[static_cast<std::size_t>(i)], ports[static_cast<std::size_t>(i * 4 / gpus)],
           LinkClass::pcie, "GPU to PCIe", pcie, pcie_latency);
  for (std::int32_t i = 0; i < b.options.nics_per_node; ++i) {
    made.nics.push_back(b.device(DeviceKind::nic, node, i));
    b.link(made.nics.back(), ports[static_cast<std::size_t>(i * 4 / b.options.nics_per_node)],
           LinkClass::pcie, "NIC to PCIe", pcie, pcie_latency);
  }
  return made;
}

// Four NVSwitches of a Hopper board carry each GPU's 18 links as 4 or 5 each; a flow spreads over all of
// them, so that the board is one switch with 450 GB/s a port and direction.
void add_nvswitch(Builder& b, const Node& node, std::int32_t index) {
  const DeviceId nvswitch = b.device(DeviceKind::nvswitch, index, 0);
  for (const DeviceId gpu : node.gpus)
    b.link(gpu, nvswitch, LinkClass::nvlink, "GPU to NVSwitch", nvlink_rate, nvlink_latency);
}

void add_mesh(Builder& b, const Node& node) {
  for (std::size_t i = 0; i < node.gpus.size(); ++i)
    for (std::size_t j = i + 1; j < node.gpus.size(); ++j)
      b.link(node.gpus[i], node.gpus[j], LinkClass::xgmi, "GPU to GPU", xgmi_rate, xgmi_latency);
}

// One leaf per rail (NIC index) and group of nodes; every leaf reaches every spine.
void add_network(Builder& b, const std::vector<Node>& nodes) {
  const PresetOptions& o = b.options;
  const bool ib = o.network == NetworkKind::infiniband;
  const Figure& latency = ib ? infiniband_latency : roce_latency;
  const Figure port{o.nic_gbps * giga / 8, FigureKind::derived, "nic_gbps of the deployment"};
  const std::int32_t groups = (o.nodes + o.nodes_per_leaf - 1) / o.nodes_per_leaf;
  std::vector<DeviceId> leaves;
  for (std::int32_t i = 0; i < groups * o.nics_per_node; ++i)
    leaves.push_back(b.device(DeviceKind::leaf, -1, i));
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    const std::size_t group = n / static_cast<std::size_t>(o.nodes_per_leaf);
    for (std::size_t rail = 0; rail < nodes[n].nics.size(); ++rail)
      b.link(nodes[n].nics[rail], leaves[group * static_cast<std::size_t>(o.nics_per_node) + rail],
             LinkClass::network, "NIC to leaf", port, latency);
  }
  if (leaves.size() < 2) return;
  const double down = o.nic_gbps * giga / 8 * std::min(o.nodes_per_leaf, o.nodes);
  const Figure up{down / (o.oversubscription * o.spines), FigureKind::derived,
                  "ports below a leaf x nic_gbps / (oversubscription x spines)"};
  for (std::int32_t s = 0; s < o.spines; ++s) {
    const DeviceId spine = b.device(DeviceKind::spine, -1, s);
    for (const DeviceId leaf : leaves) b.link(leaf, spine, LinkClass::network, "leaf to spine", up, latency);
  }
}

}  // namespace

const std::vector<TopologyPreset> topology_presets{
    {"hopper-8", "8 GPUs on NVSwitch: H100, H200, H20 (450 GB/s a GPU and direction)"},
    {"mi300x-8", "8 MI300X, every pair joined by xGMI (64 GB/s a pair and direction)"},
    {"mi325x-8", "8 MI325X, every pair joined by xGMI (64 GB/s a pair and direction)"},
    {"l40s-8", "up to 8 L40S on PCIe 4 switches, no peer links"},
    {"r9700-8", "up to 8 R9700 on PCIe 5 roots of two CPUs, no peer links"},
};

Topology build_preset(const PresetOptions& options) {
  Builder b{options, {}};
  b.topology.name = options.preset;
  const bool hopper = options.preset == "hopper-8", l40s = options.preset == "l40s-8";
  const bool r9700 = options.preset == "r9700-8";
  std::vector<Node> nodes;
  for (std::int32_t n = 0; n < options.nodes; ++n) {
    nodes.push_back(add_node(b, n, l40s ? pcie4_rate : pcie5_rate, !r9700));
    if (hopper) add_nvswitch(b, nodes.back(), n);
    if (!hopper && !l40s && !r9700) add_mesh(b, nodes.back());
  }
  if (options.nics_per_node > 0) add_network(b, nodes);
  return std::move(b.topology);
}

}  // namespace orrery::fabric
