// Faults, rolling updates and autoscaling in a scenario: keys, and what they mean for instances, GPUs and
// links (docs/faults.md).
#pragma once

#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/fault_spec.h"
#include "sim/fleet_plan.h"

namespace orrery {

struct PoolSpec;

// `start`, `autoscale` and `rolling_update` of a pool.
void read_changes(const Yaml& node, PoolSpec& pool);

// `faults` of a scenario and `deployment.on_failure`; what they name must be there. `topology` may be null.
void read_faults(const Yaml& root, const std::vector<const PoolSpec*>& pools,
                 const fabric::Topology* topology, std::vector<FaultSpec>& faults, RecoverySpec& recovery);

// Whether instances of these pools may come and go.
bool has_changes(const std::vector<FaultSpec>& faults, const std::vector<const PoolSpec*>& pools);

// How long an instance of the pool takes to start: its weights through `load` alone, and the engine's own.
// Needs the memory plan.
struct StartTimes {
  double engine_s = 0, load_s = 0;
};
StartTimes start_times(const PoolSpec& pool);
SimDuration start_time(const PoolSpec& pool);  // both

// Of a scenario with changes. `seats`: where instances stand on the topology, empty without one.
FleetPlan fleet_plan(const std::vector<FaultSpec>& faults, const RecoverySpec& recovery,
                     const std::vector<const PoolSpec*>& pools,
                     const std::vector<FabricTransport::Seat>& seats, const fabric::Topology* topology);

}  // namespace orrery
