#include "sim/fabric/topology.h"

#include <algorithm>

namespace orrery::fabric {

const char* to_string(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::gpu: return "gpu";
    case DeviceKind::nvswitch: return "nvswitch";
    case DeviceKind::pcie_switch: return "pcie_switch";
    case DeviceKind::host: return "host";
    case DeviceKind::nic: return "nic";
    case DeviceKind::leaf: return "leaf";
    case DeviceKind::spine: break;
  }
  return "spine";
}

const char* to_string(LinkClass link_class) {
  switch (link_class) {
    case LinkClass::nvlink: return "nvlink";
    case LinkClass::xgmi: return "xgmi";
    case LinkClass::pcie: return "pcie";
    case LinkClass::socket: return "socket";
    case LinkClass::network: break;
  }
  return "network";
}

DeviceId Topology::add_device(Device device) {
  const DeviceId id(static_cast<std::uint32_t>(devices_.size()));
  nodes_ = std::max(nodes_, device.node + 1);
  if (device.kind == DeviceKind::gpu) gpus_.push_back(id);
  devices_.push_back(std::move(device));
  return id;
}

LinkId Topology::add_link(DeviceId a, DeviceId b, LinkClass link_class, std::int64_t bytes_per_second,
                          std::int64_t bytes_per_second_back, SimDuration latency) {
  ORRERY_CHECK(a != b && bytes_per_second >= 1 && bytes_per_second_back >= 1 && latency.ns() >= 0,
               "a link joins two devices, has a bandwidth each way and no negative latency");
  const LinkId id(static_cast<std::uint32_t>(links_.size()));
  links_.push_back({a, b, link_class, bytes_per_second, latency});
  links_.push_back({b, a, link_class, bytes_per_second_back, latency});
  return id;
}

DeviceId Topology::find(std::string_view wanted) const {
  for (std::size_t i = 0; i < devices_.size(); ++i)
    if (devices_[i].name == wanted) return DeviceId(static_cast<std::uint32_t>(i));
  return DeviceId::none();
}

DeviceId Topology::gpu(std::int32_t node, std::int32_t index) const {
  for (const DeviceId id : gpus_)
    if (device(id).node == node && device(id).index == index) return id;
  return DeviceId::none();
}

}  // namespace orrery::fabric
