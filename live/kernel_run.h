// A scenario on real kernels: what it asks of a device, the run, and what came of it beside what its price
// list says.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "live/endpoint_client.h"
#include "live/forward/kv_mover.h"
#include "live/kernel_executor.h"
#include "live/tape.h"
#include "sim/costed/scenario.h"
#include "sim/results.h"

namespace orrery {

constexpr std::int64_t kernel_block = 16;  // tokens of a KV block that the kernels are written for

// What the steps of a scenario can ask for at most.
struct KernelDemand {
  const InstanceSpec* instance = nullptr;
  std::int64_t instances = 1, blocks = 0;                           // blocks: of each
  std::int64_t max_rows = 0, max_sequences = 0, max_positions = 0;  // of a step, padding included; of a
                                                                    // sequence
  std::int32_t ranks = 1;                                           // devices that share out the model
  bool shares_experts = false;                                      // whole experts, by device
  std::shared_ptr<const ExpertPopularity> popularity;  // that experts are drawn by; null: the router's own
  std::int32_t first_device = 0;                       // of prefill and decode pools each has its own
  std::uint64_t seed = 1;
  bool waits = true;          // the clock
  bool marks_layers = false;  // prefill whose KV leaves layer by layer, in real time
};
KernelDemand kernel_demand(const PoolSpec& pool, std::uint64_t seed, bool waits);

struct KernelDevice {
  std::unique_ptr<StepRunner> runner;
  bool own_pools = true;  // room for every instance's blocks; else all write into the same ones
  std::string name;       // of the part and what drives it
};

struct KernelRunOptions {
  bool waits = true;          // the clock; false: measured simulation
  bool rehearse = false;      // under a clock that waits: the same scenario once before, without waiting, so
                              // that products are planned and graphs captured
  bool emulate_host = false;  // docs/live.md
  std::function<Result<KernelDevice>(const KernelDemand&)> make_device;  // for every pool, in their order
  // From the first pool's device to the second's.
  std::function<Result<std::unique_ptr<KvMover>>()> make_mover = {};
  TapeRecorder* tape = nullptr;
  std::function<bool(std::uint64_t)> keep_going = {};
  // So many steps of a rehearsal, of all kinds and sizes, are timed launch by launch (docs/live.md).
  std::int64_t profile_steps = 0;
};

struct KernelRun {
  RunResult result;
  EndpointRun seen;  // its requests, as a client of a server would have seen them
  std::vector<KernelStep> steps;
  std::vector<ProfiledStep> profiled;  // of the rehearsal
  std::int64_t missed_blocks = 0;                           // see KvBlockMap::missed
  std::int64_t moves = 0, moved_blocks = 0, moving_ns = 0;  // KV between pools
  std::string device;
  bool own_pools = true;
};

// What cannot run on kernels, by key (invalid input). All of it at once.
Status check_kernel_scenario(const Scenario& scenario, bool waits);
Result<KernelRun> run_on_kernels(const Scenario& scenario, const KernelRunOptions& options);

// What the device should take for it, launches that it waits for among it.
double priced_device_ns(const StepPricer& pricer, const KernelStep& step);
// Step by step: its shape, what the cost model says the device takes, what it took, the host's part.
Result<std::string> kernel_steps_csv(const Scenario& scenario, const KernelRun& run);
// The same by kind of step: {decode, mixed, prefill: {steps, predicted_ms, measured_ms, error_percent,
// worst_percent}, host_us}.
Result<Json> kernel_steps_json(const Scenario& scenario, const KernelRun& run);

}  // namespace orrery
