#include "sim/costed/run.h"

#include "sim/costed/cost_model_executor.h"
#include "sim/policies.h"
#include "sim/simulation.h"
#include "sim/trace_inbox.h"

namespace orrery {

namespace {

PriceScales product(const PriceScales& a, const PriceScales& b) {
  PriceScales p;
  for (std::size_t i = 0; i < op_class_count; ++i) p.op[i] = a.op[i] * b.op[i];
  p.host = a.host * b.host;
  return p;
}

}  // namespace

Result<RunResult> run_scenario(const Scenario& scenario, const RunOptions& options) {
  WorkloadSpec workload = scenario.workload;
  workload.time_scale *= options.rate_factor;
  if (options.limit_requests > 0 &&
      (workload.limit_requests == 0 || workload.limit_requests > options.limit_requests)) {
    workload.limit_requests = options.limit_requests;
  }
  ORRERY_TRY(source, open_workload(workload, scenario.seed));
  ORRERY_TRY(pricer, StepPricer::create(scenario.pool.instance, product(scenario.what_if, options.scales)));

  const auto replicas = static_cast<std::size_t>(scenario.pool.replicas);
  OutputLengths oracle;
  TraceInbox inbox(std::move(source), pricer.input_delay(), workload.closed_loop_concurrency, oracle);
  CostModelExecutor executor(std::vector<const StepPricer*>(replicas, &pricer), oracle);
  VirtualClock clock;
  const RouterPolicy* router_policy = find_router(scenario.pool.router);
  const SchedulerPolicy* scheduler_policy = find_scheduler(scenario.pool.instance.engine.scheduler);
  if (router_policy == nullptr || scheduler_policy == nullptr) {
    return make_error(ErrorKind::invalid_input, "the engine profile names an unknown scheduler " +
                                                    scenario.pool.instance.engine.scheduler);
  }
  const auto router = router_policy->make();
  SchedulerConfig config = scenario.scheduler_config();
  config.stretches = options.stretches;
  config.steps_in_flight = pricer.steps_in_flight();

  SimulationSetup setup;
  setup.clock = &clock;
  setup.executor = &executor;
  setup.inbox = &inbox;
  setup.router = router.get();
  for (std::size_t i = 0; i < replicas; ++i) setup.schedulers.push_back(scheduler_policy->make(config));
  setup.sink = options.sink;
  setup.observer = options.observer;
  setup.slo = scenario.slo.limits();
  setup.per_request_itl = options.per_request_itl;
  setup.seed = scenario.seed;
  setup.keep_going = options.keep_going;
  auto run = run_simulation(std::move(setup));
  if (!run.ok()) return run.errors();

  RunResult result = std::move(run).value();
  const CostModelExecutor::Usage& usage = executor.usage();
  result.prices = usage.prices;
  result.device_time = {{"prefill steps", usage.prefill_ns},
                        {"mixed steps", usage.mixed_ns},
                        {"decode steps", usage.decode_ns}};
  result.device_busy_ns = usage.prefill_ns + usage.mixed_ns + usage.decode_ns;
  result.pools.front().name = scenario.pool.name;
  result.pools.front().gpus_per_instance = scenario.pool.instance.plan.gpus();
  result.pools.front().kv_block_size = config.block_size;
  return result;
}

}  // namespace orrery
