// Devices and links of a deployment: what bytes can cross, at which rate, after which latency. Ids are dense:
// they are the vertices and edges of the Boost.Graph that Routes searches.
//
// A physical link is two directions, each a LinkId with a bandwidth of its own; `reverse` names the other
// one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "sim/fabric/figure.h"

namespace orrery::fabric {

using LinkId = StrongId<struct FabricLinkTag>;

enum class DeviceKind : std::uint8_t { gpu, nvswitch, pcie_switch, host, nic, leaf, spine };
const char* to_string(DeviceKind kind);
enum class LinkClass : std::uint8_t { nvlink, xgmi, pcie, socket, network };
const char* to_string(LinkClass link_class);

struct Device {
  std::string name;
  DeviceKind kind = DeviceKind::gpu;
  std::int32_t node = -1;  // -1: a switch between nodes
  std::int32_t index = 0;  // among its kind in its node
};

struct Link {
  DeviceId from, to;
  LinkClass link_class = LinkClass::nvlink;
  std::int64_t bytes_per_second = 0;  // this direction
  SimDuration latency;                // of crossing the link once
};

// What a link class of a topology rests on, for lists and documents.
struct LinkSource {
  LinkClass link_class;
  std::string what;  // "GPU to NVSwitch"
  Figure bandwidth, latency;
};

class Topology {
 public:
  DeviceId add_device(Device device);
  // Both directions; returns the one from `a` to `b`. Preconditions: a ≠ b, bandwidths ≥ 1 byte/s, latency ≥
  // 0.
  LinkId add_link(DeviceId a, DeviceId b, LinkClass link_class, std::int64_t bytes_per_second,
                  std::int64_t bytes_per_second_back, SimDuration latency);

  std::size_t device_count() const { return devices_.size(); }
  std::size_t link_count() const { return links_.size(); }
  const Device& device(DeviceId id) const { return devices_[id.value()]; }
  const Link& link(LinkId id) const { return links_[id.value()]; }
  static LinkId reverse(LinkId id) { return LinkId(id.value() ^ 1U); }
  DeviceId find(std::string_view name) const;  // none() when there is none
  const std::vector<DeviceId>& gpus() const { return gpus_; }
  DeviceId gpu(std::int32_t node, std::int32_t index) const;  // none() when there is none
  std::int32_t nodes() const { return nodes_; }

  std::string name;
  std::vector<LinkSource> sources;

 private:
  std::vector<Device> devices_;
  std::vector<Link> links_;
  std::vector<DeviceId> gpus_;
  std::int32_t nodes_ = 0;
};

}  // namespace orrery::fabric
