// Routes over a topology: fewest hops, and between equal ways a fixed rule.
//
// 1. GPUs end routes and never forward (a copy through a third GPU is a step of a collective, not a route).
// 2. Of all routes the one with the fewest links; of equally near next links only the widest (NVLink before
// PCIe). Nothing
//    looks at load: routing is static, as ECMP is.
// 3. Where several next links are left: towards a NIC, or down to one, rail alignment (the NIC whose
// place
//    among the equal ones is the GPU's index modulo their number: the sender's index on the way out, the
//    receiver's on the way in); elsewhere (spines, several switches) by a hash of flow key and device. Equal
//    keys take equal ways.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sim/fabric/topology.h"

namespace orrery::fabric {

class Routes {
 public:
  explicit Routes(const Topology& topology);  // keeps a reference; the topology grows no more

  // Links from `from` to `to` in order; empty when from == to or when no way is left (see reachable).
  std::vector<LinkId> find(DeviceId from, DeviceId to, std::uint64_t key);
  bool reachable(DeviceId from, DeviceId to);
  void fail(LinkId link);  // this direction carries nothing any more
  void restore(LinkId link);
  bool failed(LinkId link) const { return failed_[link.value()]; }

 private:
  using Distances = std::vector<std::uint16_t>;  // links to the target; unreached: 65535
  const Distances& distances(DeviceId to);
  LinkId choose(const std::vector<LinkId>& equal, DeviceId from, DeviceId to, DeviceId at,
                std::uint64_t key) const;

  struct Graph;  // Boost.Graph's headers cost every reader of this one half a second

  const Topology& topology_;
  std::shared_ptr<const Graph> graph_;
  std::vector<bool> failed_;
  std::vector<Distances> to_;  // by target, empty until asked for; forgotten when a link fails
};

}  // namespace orrery::fabric
