// Where flows (KV on its way between instances and to host memory, weights of experts that move) meet what
// steps put on links: their collectives, exchanges of experts' rows and hand-offs between stages.
//
// A step takes on each side of its instance's links (link_sides.h) the max-min share that a flow over all of
// them would get as the step begins, until the flows there have sent what they have left. The flows share
// what the steps leave: a link's rate less a step's bytes over its device time, and at least k/(k + 1) of it
// beside k flows, which is what they have while a collective runs. A flow holds its links from its begin
// until it has arrived.
#pragma once

#include <vector>

#include "base/ids.h"
#include "costmodel/step_pricer.h"
#include "sim/costed/link_sides.h"
#include "sim/fabric/flows.h"

namespace orrery {

class SharedLinks {
 public:
  // `sides`: by instance; none = it shares nothing. Both references must outlive it.
  SharedLinks(fabric::Flows& flows, const fabric::Topology& topology,
              std::vector<std::vector<LinkSide>> sides);

  bool watches(std::size_t instance) const { return instances_[instance].watched; }
  // Its steps are not priced as if alone: flows are on its links, or faults have hit some.
  bool meets_traffic(std::size_t instance) const;
  // On that of the side's links which has most.
  std::int32_t flows_on(std::size_t instance, std::size_t side) const;
  LinkPace::Side pace(std::size_t instance, std::size_t side, SimTime now);
  LinkPace pace(std::size_t instance, SimTime now) {
    return {pace(instance, inside_side(), now), pace(instance, network_side(), now)};
  }
  const LinkSide& side(std::size_t instance, std::size_t side) const {
    return instances_[instance].sides[side].of;
  }
  // Bytes on each of the side's links of what prices say keeps links inside a node full for so long.
  double bytes_of(std::size_t instance, std::size_t side, double inside_ns) const {
    const Side& s = instances_[instance].sides[side];
    return inside_ns * 1e-9 * s.of.of_priced * s.narrowest;
  }
  // Its newest step puts so many bytes a second on each of the side's links; 0: none is in flight.
  void demand(std::size_t instance, std::size_t side, double bytes_per_second, SimTime now);
  void nothing_in_flight(std::size_t instance, SimTime now);
  // A flow takes, or leaves, its links. Instances that share one of them are appended to `touched`.
  void begin(fabric::FlowId flow, const std::vector<fabric::LinkId>& route, SimTime now,
             std::vector<InstanceId>& touched);
  void end(fabric::FlowId flow, const std::vector<fabric::LinkId>& route, SimTime now);
  // What is left of one direction of a link; 0: of both nothing (other ways are taken).
  void set_left(fabric::LinkId link, double factor, SimTime now);

 private:
  struct Side {
    LinkSide of;
    std::vector<fabric::LinkId> ways;  // its links, or those of a detour
    double narrowest = 0;              // rate of a link that nothing has hit
    double rate = 0;                   // bytes a second that steps put on each link
    double detour = 1;                 // pace left when links are cut and others carry their bytes
    std::uint64_t known = 0;           // version at which `pace` was asked for
    LinkPace::Side pace;
  };
  struct Sharer {
    std::vector<Side> sides;
    bool watched = false;
  };
  struct User {
    std::uint32_t instance, side;
  };
  void reserve(fabric::LinkId link, const Side* without, SimTime now);
  double probe(const Side& side, SimTime now);
  void take_ways(std::uint32_t instance, std::uint32_t side, std::vector<fabric::LinkId> ways, SimTime now);
  void detour(SimTime now);
  double left_of(const std::vector<fabric::LinkId>& links) const;
  double drained_ns(const Side& side, SimTime now);

  fabric::Flows& flows_;
  const fabric::Topology& topology_;
  fabric::Routes routes_;
  std::vector<Sharer> instances_;
  std::vector<std::vector<User>> users_;           // by link
  std::vector<std::vector<fabric::FlowId>> held_;  // by link: flows
  std::vector<double> left_;                       // by link
  std::uint64_t version_ = 1;                      // of flows and links
};

}  // namespace orrery
