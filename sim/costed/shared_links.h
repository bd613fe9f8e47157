// Where KV on its way between instances and the collectives of their steps meet: the NICs of instances that
// stand on several nodes.
//
// While k flows of KV hold a NIC, a collective gets 1/(k + 1) of it (max-min, both limited there): what it
// sends between nodes takes k + 1 times as long. The flows share what is left of the NIC over time: its rate
// less the bytes that a step puts on it over the step's device time, and at least k/(k + 1) of it, which is
// what they have while a collective runs. A flow holds its NICs from its begin until it has arrived.
#pragma once

#include <vector>

#include "base/ids.h"
#include "sim/fabric/flows.h"

namespace orrery {

class SharedLinks {
 public:
  // `links`: by instance, those on which its collectives leave and enter nodes, each of one instance at most;
  // none = it shares nothing. Both references must outlive it.
  SharedLinks(fabric::Flows& flows, const fabric::Topology& topology,
              std::vector<std::vector<fabric::LinkId>> links);

  bool watches(std::size_t instance) const { return !instances_[instance].links.empty(); }
  // Of KV, on that of its links which has most.
  std::int32_t flows_on(std::size_t instance) const { return instances_[instance].flows; }
  // Its newest step puts so many bytes a second on each of its links; 0: none is in flight.
  void demand(std::size_t instance, double bytes_per_second, SimTime now);
  // A flow of KV takes, or leaves, its links. Instances that share one of them are appended to `touched`.
  void begin(const std::vector<fabric::LinkId>& route, SimTime now, std::vector<InstanceId>& touched);
  void end(const std::vector<fabric::LinkId>& route, SimTime now);
  bool shared(fabric::LinkId link) const { return owner_[link.value()] >= 0; }

 private:
  struct Sharer {
    std::vector<fabric::LinkId> links;
    std::int32_t flows = 0;
    double rate = 0;  // bytes a second on each link
  };
  void reserve(fabric::LinkId link, SimTime now);
  void count(Sharer& sharer) const;

  fabric::Flows& flows_;
  const fabric::Topology& topology_;
  std::vector<Sharer> instances_;
  std::vector<std::int32_t> owner_;  // by link: the instance, or −1
  std::vector<std::int32_t> held_;   // by link: flows of KV
};

}  // namespace orrery
