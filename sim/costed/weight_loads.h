// Where weights of an instance that starts come from, where they take the topology's links (docs/faults.md,
// "Starting"): a storage server of the pool's, a disk of each node, or GPUs of another instance.
//
// A server or disk is a link of its own in the topology, from a device that has no other, with its rate; a
// load is a demand over that and over the way from where it stands. So it shares its rate among those who
// load from it at once, and no route of others leads through it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/yaml_reader.h"
#include "sim/costed/pool_spec.h"
#include "sim/fabric/figure.h"
#include "sim/fabric/routes.h"

namespace orrery {

// Adds devices and links for what pools load from, behind all that the topology has. Errors at their keys: a
// topology without switches between nodes, or without hosts.
void add_weight_sources(const std::vector<Yaml>& nodes, const std::vector<const PoolSpec*>& pools,
                        fabric::Topology& topology);

// Loads under way, as FabricTransport keeps them.
struct WeightLoads {
  struct Plan {  // of an instance
    std::int64_t bytes_per_gpu = 0;
    std::vector<DeviceId> gpus;
    std::vector<fabric::LinkId> source;         // by GPU: the source's own link; empty: GPUs of a peer
    std::vector<std::vector<DeviceId>> starts;  // and where the way from there may begin, best first
  };
  struct Rest {
    std::int32_t gpu = 0;
    std::int64_t bytes = 0;
  };
  struct Load {
    InstanceId peer;
    std::int32_t flows = 0;   // under way
    std::vector<Rest> stuck;  // no way is left until a link is mended
  };
  struct Done {
    SimTime at;
    InstanceId instance;
  };
  WeightLoads(const fabric::Topology& topology, std::vector<Plan> all)
      : plans(std::move(all)), routes(topology) {}

  std::vector<Plan> plans;
  std::map<std::uint32_t, Load> open;  // by instance
  std::vector<Done> done;              // not taken yet
  fabric::Routes routes;
};

// By instance; `gpus`: where they stand.
std::vector<WeightLoads::Plan> weight_plans(const fabric::Topology& topology,
                                            const std::vector<const PoolSpec*>& pools,
                                            const std::vector<std::vector<DeviceId>>& gpus);

}  // namespace orrery
