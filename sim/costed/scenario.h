// A scenario file (interfaces §3), resolved: names became figures, the memory plan became KV blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/collector.h"
#include "sim/costed/fault_spec.h"
#include "sim/costed/pool_spec.h"
#include "sim/handoffs.h"
#include "workloads/workload.h"

namespace orrery::fabric {
class Topology;
}

namespace orrery {

struct SloSpec {
  bool given = false;
  double ttft_ms = 0, tpot_ms = 0;  // 0 = no limit
  double percentile = 99;           // attainment that find-rate and plan demand
  Slo limits() const;
};

struct Scenario {
  std::string file;
  PoolSpec pool;                                     // the first one; mostly there is no other
  std::vector<PoolSpec> other_pools;                 // behind it, in the order of the file
  std::shared_ptr<const fabric::Topology> topology;  // that instances stand on; may be null
  PdRules pd;                                        // deployment.pd, of prefill and decode pools
  std::vector<FaultSpec> faults;
  RecoverySpec recovery;
  WorkloadSpec workload;
  SloSpec slo;
  std::uint64_t seed = 1;
  PriceScales what_if;  // overrides.op_scale
  bool is_what_if = false;
  std::string yaml;  // the document as used (after --set), relative paths made absolute

  std::vector<const PoolSpec*> pools() const;  // all of them
  std::int64_t gpus() const;
  SchedulerConfig scheduler_config() const { return pool.scheduler_config(); }
  std::string resolved_yaml() const;  // the document plus a `resolved:` map: settings, memory, figures with
                                      // sources
};

struct ScenarioOptions {
  std::vector<std::string> overrides;  // --set
  std::string trace;                   // --trace; relative to the working directory
  std::int64_t seed = -1;              // --seed; −1 = the scenario's
  bool needs_workload = true;          // `orrery cost` does without
  std::string document = {};           // the file's text, where it is not to be read (a tape has it)
};

// All problems of the file at once; after that, whether it fits (infeasible).
Result<Scenario> load_scenario(const std::string& path, const ScenarioOptions& options);

// The memory plan of every pool, and where its instances stand on the topology; says of which one when it
// fails.
Status plan_pools(Scenario& scenario);

// `deployment:` and `workload:` (either may be absent) as parts of another document. Problems go to that
// document and to `errors`; the memory plan is left to the caller.
Scenario read_scenario_parts(const Yaml& deployment, const Yaml& workload, const std::string& folder,
                             Errors& errors, const Yaml& figures = {});

}  // namespace orrery
