// Faults of a scenario as read (docs/faults.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/fleet_plan.h"

namespace orrery {

enum class FaultKind : std::uint8_t { gpu, node, nic, link };

struct FaultSpec {
  FaultKind kind = FaultKind::gpu;
  std::string name;         // "gpu 2.0" (instance, GPU), "node 1", "link node0.nic0–leaf0"
  std::int32_t target = 0;  // gpu: place among all GPUs, instance by instance; node: its number; else a
                            // device
  std::vector<std::uint32_t> links;  // nic and link: both directions
  GpuPlace gpu;
  double factor = 0;  // 0: failure
  double at_s = 0;
  double for_s = -1;  // −1: for the rest of the run
  double mtbf_h = 0;  // above 0: sampled, for for_s each time
  std::uint64_t entity = 0;
};

struct RecoverySpec {
  bool retry = true;
  std::int32_t retries = 3;
  double detection_s = 5;
};

}  // namespace orrery
