#include <cmath>
#include <map>
#include <optional>

#include "base/text.h"
#include "sim/fabric/presets.h"

namespace orrery::fabric {

namespace {

const std::vector<std::string> device_kinds{"gpu", "nvswitch", "pcie_switch", "host", "nic", "leaf", "spine"};
const std::vector<std::string> link_classes{"nvlink", "xgmi", "pcie", "socket", "network"};

void read_device(const Yaml& node, Topology& topology) {
  Device device;
  const Yaml name = node.require("name");
  device.name = name.text();
  device.kind = static_cast<DeviceKind>(node.require("kind").choice(device_kinds));
  const bool between = device.kind == DeviceKind::leaf || device.kind == DeviceKind::spine;
  if (between) {
    if (node.optional("node"))
      node.optional("node").fail("a leaf or spine stands between nodes: leave this key out");
  } else {
    device.node = static_cast<std::int32_t>(node.require("node").integer(0, 0, 4095));
  }
  device.index = static_cast<std::int32_t>(node.require("index").integer(0, 0, 65535));
  if (name.present() && device.name.empty()) name.fail("a device needs a name");
  if (!topology.find(device.name).is_none()) name.fail("a second device of this name; names must differ");
  for (std::size_t i = 0; i < topology.device_count(); ++i) {
    const Device& other = topology.device(DeviceId(static_cast<std::uint32_t>(i)));
    if (other.kind == device.kind && other.node == device.node && other.index == device.index)
      node.fail(quote(other.name) + " has the same kind, node and index; give another index");
  }
  topology.add_device(std::move(device));
}

DeviceId read_end(const Yaml& node, const Topology& topology) {
  const std::string name = node.text();
  const DeviceId id = topology.find(name);
  if (id.is_none()) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < topology.device_count(); ++i)
      names.push_back(topology.device(DeviceId(static_cast<std::uint32_t>(i))).name);
    node.fail("no device is called " + quote(name) + did_you_mean(name, names) + "; name one of `devices`");
  }
  return id;
}

std::int64_t rate_of(const Yaml& node, const Figure& figure) {
  if (!figure.present()) return 0;
  if (figure.value < 1 || figure.value > 1e15) {
    node.fail("a bandwidth from 1 byte/s to 1 PB/s was expected");
    return 0;
  }
  return round_half_even(figure.value);
}

void read_link(const Yaml& node, Topology& topology) {
  const Yaml between = node.require("between");
  std::vector<DeviceId> ends;
  if (between.present())
    for (const Yaml& end : between.items()) ends.push_back(read_end(end, topology));
  const auto link_class = static_cast<LinkClass>(node.require("class").choice(link_classes));
  const Yaml rate_node = node.require("bandwidth"), back_node = node.optional("bandwidth_back");
  const Figure rate = read_figure(rate_node, FigureUnit::bytes_per_second);
  const Figure back = back_node ? read_figure(back_node, FigureUnit::bytes_per_second) : rate;
  const Figure latency = read_figure(node.require("latency"), FigureUnit::seconds);
  const std::int64_t forth_rate = rate_of(rate_node, rate);
  const std::int64_t back_rate = back_node ? rate_of(back_node, back) : forth_rate;
  if (!between.present()) return;
  if (ends.size() != 2 || ends[0] == ends[1]) {
    between.fail("two different devices were expected: [a, b]");
    return;
  }
  if (ends[0].is_none() || ends[1].is_none() || forth_rate < 1 || back_rate < 1) return;
  if (latency.value > 1) {
    node.require("latency").fail("a latency of at most 1 s was expected");
    return;
  }
  topology.add_link(ends[0], ends[1], link_class, forth_rate, back_rate,
                    duration_from_seconds(latency.value));
  topology.sources.push_back({link_class, between.path(), rate, latency});
}

Result<Topology> read_document(const YamlDocument& document) {
  Topology topology;
  const Yaml root = document.root();
  topology.name = root.require("name").text();
  const Yaml devices = root.require("devices"), links = root.require("links");
  if (devices)
    for (const Yaml& device : devices.items()) read_device(device, topology);
  if (links)
    for (const Yaml& link : links.items()) read_link(link, topology);
  if (devices && topology.gpus().empty()) devices.fail("a topology needs a device of kind gpu");
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return topology;
}

std::optional<double> read_number(const Yaml& node, const char* key, double low, double high) {
  const Yaml value = node.optional(key);
  if (!value) return std::nullopt;
  return value.number(low, low, high);
}

Result<Topology> read_preset(const Yaml& node) {
  PresetOptions o;
  std::vector<std::string> names;
  for (const TopologyPreset& preset : topology_presets) names.emplace_back(preset.name);
  const auto whole = [&node](const char* key, std::int32_t fallback, std::int64_t low, std::int64_t high) {
    const Yaml value = node.optional(key);
    return value ? static_cast<std::int32_t>(value.integer(low, low, high)) : fallback;
  };
  const Yaml preset = node.require("preset");
  o.preset = names[preset.choice(names)];
  o.nodes = whole("nodes", o.nodes, 1, 1024);
  o.gpus_per_node = whole("gpus_per_node", o.gpus_per_node, 1, 8);
  const bool box = o.preset == "l40s-8" || o.preset == "r9700-8";
  if (o.gpus_per_node != 8 && !box)
    node.optional("gpus_per_node").fail("a " + o.preset + " node has 8; other boxes: give a topology file");
  o.nics_per_node = whole("nics_per_node", o.nics_per_node, 1, 8);
  o.nic_gbps = read_number(node, "nic_gbps", 0.001, 100000).value_or(0);
  if (const Yaml network = node.optional("network"))
    o.network = static_cast<NetworkKind>(network.choice({"infiniband", "roce"}));
  o.oversubscription = read_number(node, "oversubscription", 1, 64).value_or(1);
  o.nodes_per_leaf = whole("nodes_per_leaf", o.nodes_per_leaf, 1, 1024);
  o.spines = whole("spines", o.spines, 1, 64);
  if (o.nodes > 1 && o.nics_per_node == 0)
    node.fail("several nodes need NICs: give nics_per_node (1 to 8) and nic_gbps");
  if ((o.nics_per_node > 0) != (o.nic_gbps > 0))
    node.fail("nics_per_node and nic_gbps go together: give both");
  Errors none{invalid_input("the topology above is not usable", node.where(), node.path())};
  if (!preset.present() || (o.nodes > 1 && o.nics_per_node == 0) || (o.nics_per_node > 0) != (o.nic_gbps > 0))
    return none;
  if (o.gpus_per_node != 8 && !box) return none;
  return build_preset(o);
}

}  // namespace

Result<Topology> read_topology(const Yaml& node, const std::string& directory) {
  if (node.is_map()) return read_preset(node);
  const std::string file = node.text();
  if (file.empty())
    return invalid_input("a preset ({preset: hopper-8}) or a file was expected", node.where(), node.path());
  return load_topology(file.front() == '/' || directory.empty() ? file : directory + "/" + file);
}

Result<Topology> load_topology(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  return read_document(document);
}

Result<Topology> parse_topology(const std::string& text, const std::string& file_name) {
  ORRERY_TRY(document, YamlDocument::parse(text, file_name));
  return read_document(document);
}

}  // namespace orrery::fabric
