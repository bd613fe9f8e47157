// A scenario file (interfaces §3), resolved: names became figures, the memory plan became KV blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "sim/collector.h"
#include "sim/scheduler.h"
#include "workloads/workload.h"

namespace orrery {

struct PoolSpec {
  std::string name = "main";
  InstanceSpec instance;
  MemoryPlan memory;
  std::int32_t replicas = 1;
  std::string router = "least-loaded";
  bool first_request_effects = false;  // kernels that are compiled when first needed hold their step up
  std::int32_t engines() const { return replicas * instance.engines; }
};

struct SloSpec {
  bool given = false;
  double ttft_ms = 0, tpot_ms = 0;  // 0 = no limit
  double percentile = 99;           // attainment that find-rate and plan demand
  Slo limits() const;
};

struct Scenario {
  std::string file;
  PoolSpec pool;  // one colocated pool; several come with disaggregation
  WorkloadSpec workload;
  SloSpec slo;
  std::uint64_t seed = 1;
  PriceScales what_if;  // overrides.op_scale
  bool is_what_if = false;
  std::string yaml;  // the document as used (after --set), relative paths made absolute

  std::int64_t gpus() const { return std::int64_t{pool.engines()} * pool.instance.plan.gpus(); }
  SchedulerConfig scheduler_config() const;
  std::string resolved_yaml() const;  // the document plus a `resolved:` map: settings, memory, figures with
                                      // sources
};

struct ScenarioOptions {
  std::vector<std::string> overrides;  // --set
  std::string trace;                   // --trace; relative to the working directory
  std::int64_t seed = -1;              // --seed; −1 = the scenario's
  bool needs_workload = true;          // `orrery cost` does without
};

// All problems of the file at once; after that, whether it fits (infeasible).
Result<Scenario> load_scenario(const std::string& path, const ScenarioOptions& options);

// `deployment:` and `workload:` (either may be absent) as parts of another document. Problems go to that
// document and to `errors`; the memory plan is left to the caller.
Scenario read_scenario_parts(const Yaml& deployment, const Yaml& workload, const std::string& folder,
                             Errors& errors);

}  // namespace orrery
