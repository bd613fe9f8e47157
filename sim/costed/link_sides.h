// Which links of a topology an instance's own traffic uses, side by side: what its steps put on the links of
// a side, they put on all of them alike.
#pragma once

#include <vector>

#include "base/result.h"
#include "costmodel/hardware.h"
#include "costmodel/parallel_plan.h"
#include "sim/costed/plan_links.h"
#include "sim/fabric/across.h"

namespace orrery {

struct LinkSide {
  enum class Kind : std::uint8_t { inside, between, send } kind = Kind::inside;
  RankGroups groups;                  // or pairs, the first of which sends
  std::vector<fabric::LinkId> links;  // none: nothing to share
  double wire = 0;                    // seconds that the busiest takes for a byte, nothing being broken
  // That over what prices take for it inside a node, by the part's data sheet.
  double of_priced = 1;
};
// Of `kind` and `groups`, over what `routes` has left. Error: no way.
Result<LinkSide> link_side(fabric::Routes& routes, const fabric::Topology& topology, LinkSide::Kind kind,
                           RankGroups groups);

// Places in an instance's list. A stage is 0 without pipeline stages.
constexpr std::size_t to_device_side = 0, to_host_side = 1;
constexpr std::size_t inside_side(std::size_t stage = 0) { return 2 + 2 * stage; }
// Without stages collectives between nodes, with them the hand-off to the stage.
constexpr std::size_t network_side(std::size_t stage = 0) { return 3 + 2 * stage; }

// `host_memory`: it copies KV to and from its hosts. All sides empty: it shares nothing.
Result<std::vector<LinkSide>> link_sides(fabric::Routes& routes, const fabric::Topology& topology,
                                         const std::vector<DeviceId>& gpus, const ParallelPlan& plan,
                                         bool host_memory);

// Fills in `of_priced` of an instance on such a part.
void compare_rates(const HardwareProfile& hardware, const ParallelPlan& plan, std::vector<LinkSide>& sides);

// By GPU, the nearest host of its node; none() where there is none.
std::vector<DeviceId> hosts_of(fabric::Routes& routes, const fabric::Topology& topology,
                               const std::vector<DeviceId>& gpus);

}  // namespace orrery
