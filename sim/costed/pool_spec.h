// One pool of a deployment: replicas with one configuration and one role (interfaces §3, `pools`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "sim/costed/router_spec.h"
#include "sim/pool_role.h"
#include "sim/scheduler.h"

namespace orrery {

// Where the weights of an instance that starts come from: over nothing that anybody else uses, or over the
// topology's links (weight_loads.h).
enum class WeightSource : std::uint8_t { own, storage, host, peer };

// Instances that start in a run; −1: the engine profile's figure.
struct StartSpec {
  double engine_s = -1, load_gb_per_s = -1;
  WeightSource from = WeightSource::own;
};

struct AutoscaleSpec {
  bool by_queue = false;
  double target = 0;
  std::int32_t least = 1, most = 1, at_first = 1;
  double interval_s = 15, cooldown_s = 300;
};

struct PoolSpec {
  std::string name = "main";
  PoolRole role = PoolRole::mixed;
  InstanceSpec instance;
  MemoryPlan memory;
  std::int32_t replicas = 1;
  RouterSpec router;
  bool images_elsewhere = false;       // encoder pools compute them for it
  bool first_request_effects = false;  // kernels that are compiled when first needed hold their step up

  StartSpec start;
  std::optional<AutoscaleSpec> autoscale;  // then `replicas` is the most that there may be
  double update_at_s = -1;                 // a rolling update begins; −1: there is none

  std::int32_t engines() const { return replicas * instance.engines; }  // what requests are routed to
  std::int64_t gpus() const { return std::int64_t{engines()} * instance.plan.gpus(); }
  SchedulerConfig scheduler_config() const;

 private:
  SchedulerConfig language_config() const;
};

// The keys of `deployment:` itself, or of one entry of its `pools`, but for name and role. `figures`:
// `overrides.figures`, for the part and engine of every pool.
PoolSpec read_pool(const Yaml& node, const std::string& folder, Errors& errors, const Yaml& figures = {});

// `deployment.pools`: at least one, names that differ. What does not go together is an error at its key.
std::vector<PoolSpec> read_pools(const Yaml& deployment, const std::string& folder, Errors& errors,
                                 const Yaml& figures = {});

}  // namespace orrery
