// What is to happen to instances in a run beside requests: faults, restarts, rolling updates, autoscaling.
// Plain data, resolved to instances, GPUs and links (docs/faults.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"

namespace orrery {

struct GpuPlace {
  InstanceId instance;
  std::int32_t gpu = 0;  // of the instance, by rank
};

// Scheduled: from `at` for `lasts`. Sampled (`mtbf_s` > 0): again and again, each time after an exponential
// wait of that mean from the start or from the end of the one before, for `lasts`.
struct FaultPlan {
  std::string name;                  // as results call it
  std::vector<GpuPlace> gpus;        // that fail or are slow,
  std::vector<std::uint32_t> links;  // and links of the transport's topology, one direction each
  double factor = 0;                 // 0: failure; below 1: what is left of their speed
  SimTime at;
  SimDuration lasts = SimDuration(INT64_MAX);  // INT64_MAX: for the rest of the run
  double mtbf_s = 0;
  std::uint64_t entity = 0;  // names the stream of a sampled one
  bool failure() const { return factor == 0; }
  bool for_good() const { return lasts.ns() == INT64_MAX; }
};

// What becomes of requests whose instance is lost.
struct RecoveryRules {
  bool retry = true;         // from the prompt, elsewhere; false: they are failed
  std::int32_t retries = 3;  // of one request, at most
  // From the loss until routers stop choosing the instance, and until whoever waits for it knows.
  SimDuration detection;
};

struct AutoscaleRules {
  bool on = false;
  bool by_queue = false;  // counts waiting requests; false: outstanding ones
  double target = 0;      // of them for each instance that is up
  std::int32_t least = 1;
  std::int32_t at_first = 1;  // instances at the start; the pool's `instances` are the most
  SimDuration interval, cooldown;
};

struct PoolPlan {
  SimDuration start;  // from the beginning of a process until it is ready: weights and the engine's own
  // Weights come over the transport's links, and `start` begins when they are there: from a source of their
  // own, or from another instance of the pool; where none is up, in so long.
  bool loads = false, from_peer = false;
  SimDuration load_alone = SimDuration(0);
  std::int64_t gpus = 1;  // of an instance
  bool rolls = false;     // a rolling update begins at `update_at`
  SimTime update_at;
  AutoscaleRules scale;
};

struct FleetPlan {
  std::vector<FaultPlan> faults;
  RecoveryRules recovery;
  std::vector<PoolPlan> pools;  // in the order of SimulationSetup::pools
};

}  // namespace orrery
