// The one loop: clock, executor, inbox and instances. Simulation and live differ in the three seams only.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/clock.h"
#include "sim/collector.h"
#include "sim/executor.h"
#include "sim/fleet_plan.h"
#include "sim/front_end.h"
#include "sim/handoffs.h"
#include "sim/inbox.h"
#include "sim/kv_transport.h"
#include "sim/pool_role.h"
#include "sim/router.h"
#include "sim/router_group.h"
#include "sim/scheduler.h"
#include "sim/stream_events.h"

namespace orrery {

// Order of what happens at one instant (rule D2). Each phase sees the effects of those before it.
enum class Phase : std::uint8_t {
  host_free,      // a launch returned: its core thread may go on
  step_finished,  // outputs processed: freed blocks must be visible to whoever schedules now
  transfer_finished,
  fault,  // what was complete by now is complete; also what routers learn, and requests that are sent again
  instance_ready,
  arrival,    // at the front end, then at the core; after completions, so that routing sees who is free
  telemetry,  // after work has settled: an observer changes nothing
  route,
  schedule,  // last, so that one step takes in everything that this instant brought
  timeout,   // a client went away, and the engine learns of it: what was complete by now is complete
  scale,
};

// Instances that differ in nothing but their requests.
struct PoolSetup {
  std::string name = "main";
  std::size_t instances = 0;
  PoolRole role = PoolRole::mixed;
  // Pools of one role stand behind one router, the first one's; it counts their instances from 0, in order.
  Router* router = nullptr;
  Telemetry telemetry = {};          // what the router is told late, and
  std::optional<SimDuration> batch;  // how long it gathers arrivals to sort them (sim/arrival_batch.h); both
                                     // the first pool's
  std::optional<FrontEndConfig> front_end;  // of every instance; none: the client sits beside the engine
  // To the engine's input queue, beyond what the inbox has counted; and from a proxy that has had an answer.
  SimDuration input_delay, proxy_delay;
  // Without a front end: the process that hands requests to an instance's core takes them one after another,
  // each this much after the one before.
  SimDuration input_per_request;
  // An idle core sees a request this much after it has come, and by then whatever else has come.
  SimDuration core_wake;
  SimDuration from_proxy = {};   // more, of a request whose images were encoded elsewhere
  bool client_prepares = false;  // without a front end: images are prepared in the client's process
  SimDuration abort_delay;       // from a client that gives up to the core's input queue
  StreamRule stream;             // which tokens an event brings
};

struct SimulationSetup {
  Clock* clock = nullptr;
  Executor* executor = nullptr;
  Inbox* inbox = nullptr;
  Router* router = nullptr;  // of the one pool, where `pools` is empty
  Telemetry telemetry = {};
  std::vector<std::unique_ptr<Scheduler>> schedulers;  // one per instance, index = InstanceId
  RecordSink* sink = nullptr;                          // may be null
  RunObserver* observer = nullptr;                     // may be null
  KvTransport* transport = nullptr;                    // of prefill and decode pools, or of encoder pools
  PdRules pd;                                          // of the former
  std::vector<PoolSetup> pools;                        // in the order of their instances; empty: one pool of
                                                       // all of them, as follows
  std::optional<FrontEndConfig> front_end;
  SimDuration input_per_request, core_wake, abort_delay;
  StreamRule stream;
  Slo slo;
  SimDuration warmup;  // see RunCollector
  bool per_request_itl = false;
  std::uint64_t seed = 1;
  // Instances that come and go; null: all stay. With it a fresh scheduler for an instance that starts again.
  const FleetPlan* fleet = nullptr;
  std::function<std::unique_ptr<Scheduler>(InstanceId)> make_scheduler;
  std::function<bool(std::uint64_t finished)> keep_going;  // asked now and then; false = interrupted. May be
                                                           // empty
};

// Runs until every request has ended. Errors: bad trace input (located), capacity exhausted, interrupted.
Result<RunResult> run_simulation(SimulationSetup setup);

}  // namespace orrery
