#include "sim/costed/run.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "costmodel/batch_wait.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/costed/disaggregation.h"
#include "sim/costed/draft_paths.h"
#include "sim/costed/energy.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/faults.h"
#include "sim/costed/image_processor.h"
#include "sim/costed/mean_steps.h"
#include "sim/costed/pooled_executor.h"
#include "sim/costed/run_fabric.h"
#include "sim/costed/run_reports.h"
#include "sim/policies.h"
#include "sim/routers/rank_router.h"
#include "sim/simulation.h"
#include "sim/trace_inbox.h"

namespace orrery {

PriceScales product(const PriceScales& a, const PriceScales& b) {
  PriceScales p;
  for (std::size_t i = 0; i < op_class_count; ++i) p.op[i] = a.op[i] * b.op[i];
  p.host = a.host * b.host;
  return p;
}

namespace {

// Tokens that a name of content covers: engines that share prefixes by blocks need no finer names.
std::int32_t content_block(const EngineProfile& engine) {
  return engine.engine == "vllm" ? static_cast<std::int32_t>(engine.settings.block_size) : 1;
}

// Several pools may have the same work.
void add_row(const char* name, std::int64_t ns, std::vector<std::pair<std::string, std::int64_t>>& rows) {
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const auto& r) { return r.first == name; });
  if (row == rows.end())
    rows.emplace_back(name, ns);
  else
    row->second += ns;
}

// What only a multimodal model has; all null for another.
struct ImageParts {
  std::unique_ptr<EncoderPricer> encoder;
  std::unique_ptr<ModelImages> processor;
  std::unique_ptr<ImageFrontEnd> front_end;

  // `servers`: API servers of all pools of its role, behind one router.
  static Result<ImageParts> create(const PoolSpec& pool, const PriceScales& scales, std::int32_t servers) {
    ImageParts parts;
    if (!takes_images(pool.instance) || pool.images_elsewhere) return parts;
    ORRERY_TRY(encoder, EncoderPricer::create(pool.instance, scales));
    parts.encoder = std::make_unique<EncoderPricer>(std::move(encoder));
    parts.processor =
        std::make_unique<ModelImages>(pool.instance, scales.host, pool.role != PoolRole::encoder);
    parts.front_end =
        std::make_unique<ImageFrontEnd>(*parts.processor, content_block(pool.instance.engine),
                                        servers * pool.instance.engine.settings.encoder.preparers);
    return parts;
  }

  void report(const CostModelExecutor::Usage& usage, RunResult& result) const {
    if (front_end == nullptr) return;
    if (usage.encoder_ns > 0) add_row("image encoding", usage.encoder_ns, result.device_time);
    result.device_busy_ns += usage.encoder_ns;
    const ImageCounts& c = front_end->counts();
    ImageResult& i = result.images;
    i.arrived += c.images;  // requests come to the first pool's
    i.tokens += c.tokens;
    i.kept_prepared += c.kept;
    i.prepare_ns += c.prepare_ns;
    i.prepare_wait_ns += c.prepare_wait_ns;
    i.send_ns += c.send_ns;
    i.encoder_ns += usage.encoder_ns;
    i.encoder_launch_ns += usage.encoder_launch_ns;
    i.passes += static_cast<std::uint64_t>(usage.encoder_passes);
  }
};

Status add_host_links(const PoolSpec& pool, CostModelExecutor& executor) {
  if (!copies_to_host(pool)) return ok_status();
  const HardwareProfile& hardware = pool.instance.hardware;
  if (!hardware.pcie_bandwidth.present()) {
    return invalid_input(hardware.name +
                             " has no pcie_bandwidth, which offloading of the KV cache needs; add it to the "
                             "hardware profile",
                         {}, "hardware");
  }
  executor.add_host_links(HostLink(host_block_bytes(pool), hardware.pcie_bandwidth.value.value()));
  return ok_status();
}

// Host scales reach the API server too: the same CPU, the same doubt.
std::optional<FrontEndConfig> front_end_config(const EngineProfile& engine, double scale) {
  if (!engine.front_end) return std::nullopt;
  const FrontEndCosts& f = *engine.front_end;
  const auto ps = [&](const Figure<Seconds>& figure) {
    return round_half_even(figure.value.value() * 1e12 * scale);
  };
  return FrontEndConfig{.processes = static_cast<std::int32_t>(f.processes),
                        .tokenizer_beside_loop = f.tokenizer_beside_loop,
                        .detokenizer_apart = f.detokenizer_apart,
                        .detokenizers = static_cast<std::int32_t>(f.detokenizers),
                        .request = SimDuration(ps(f.request) / 1000),
                        .message = SimDuration(ps(f.message) / 1000),
                        .tokenize_ps = ps(f.tokenize),
                        .detokenize_ps = ps(f.detokenize),
                        .output_ps = ps(engine.host.output_per_sequence),
                        .event_ps = ps(f.event)};
}

// How drafts fare in this scenario: drawn, or as a log says.
struct Acceptance {
  std::optional<SampledAcceptance> sampled;
  std::optional<LoggedAcceptance> logged;
  const AcceptanceOracle* oracle() const {
    if (logged) return &*logged;
    return sampled ? &*sampled : nullptr;
  }
};

Result<Acceptance> open_acceptance(const SpeculationSpec& s, std::uint64_t seed) {
  Acceptance acceptance;
  if (!s.on()) return acceptance;
  if (s.log.empty()) {
    acceptance.sampled.emplace(sampled_acceptance(s, seed));
  } else {
    ORRERY_TRY(log, LoggedAcceptance::load(s.log, s.drafts(), s.tree ? s.tokens : 0));
    acceptance.logged.emplace(std::move(log));
  }
  return acceptance;
}

// A run that left the log's path is no replay of it.
Status check_log(const SpeculationSpec& s, const Acceptance& acceptance) {
  if (!acceptance.logged || acceptance.logged->missing() == 0) return ok_status();
  return invalid_input("the log has no row for " + std::to_string(acceptance.logged->missing()) +
                           " verifications of this run, first for " + acceptance.logged->first_missing() +
                           "; it must come from a run of this trace with the same number of drafts",
                       {s.log, 0, 0}, "deployment.speculation.acceptance_log");
}

IdleWaves idle_waves(const InstanceSpec& instance, const StepPricer& pricer, std::size_t engines) {
  if (!instance.engine.settings.joint.runs_in_waves()) return {};
  return IdleWaves(pricer, instance.engine.runner == "v1", engines);
}

// vLLM's front end, where it chooses among ranks; elsewhere the router alone.
std::unique_ptr<Router> make_router(const PoolSpec& pool, const RouterConfig& config,
                                    std::int32_t front_ends) {
  auto router = find_router(pool.router.policy)->make(config);
  if (pool.instance.engines == 1) return router;
  return std::make_unique<RankRouter>(std::move(router), static_cast<std::size_t>(pool.replicas),
                                      static_cast<std::size_t>(pool.instance.engines),
                                      static_cast<std::size_t>(front_ends));
}

// API servers that share the requests of one deployment: of independent engines each is given its own.
std::int32_t front_end_count(const InstanceSpec& instance, const WorkloadSpec& workload) {
  if (!workload.openai_frontend || !instance.engine.front_end) return 1;
  return static_cast<std::int32_t>(instance.engine.front_end->processes) * instance.engines;
}

void describe_pool(const PoolSpec& pool, std::int32_t block_size, PoolResult& result) {
  result.name = pool.name;
  result.gpus_per_instance = pool.instance.plan.gpus();
  result.ranks = pool.instance.plan.dp;
  result.kv_block_size = block_size;
  if (pool.role == PoolRole::encoder) result.kv_blocks = 0, result.peak_utilization = 0;
  result.window_tokens = pool.memory.groups.simple() ? 0 : pool.memory.kv_tokens();
}

// Sources: docs/streaming.md.
StreamRule stream_rule(const InstanceSpec& instance) {
  const std::string& engine = instance.engine.engine;
  return {.interval = static_cast<std::int32_t>(instance.engine.settings.stream_interval),
          .by_iterations = engine == "tensorrt-llm",
          .held_by_core = engine != "vllm",
          .speculates = instance.speculation.on()};
}

LaunchJitter::Spread launch_spread(const HostCosts& host) {
  return {.median = host.launch_jitter_median.value,
          .below = host.launch_jitter_below.value,
          .above = host.launch_jitter_above.value,
          .correlation = host.launch_jitter_correlation.value};
}

// A warm-up that takes in every request leaves nothing to say. (A shortened run may well end in it.)
Status check_measured(const RunResult& r, const RunOptions& options) {
  const bool measured = r.completed + r.failed + r.cancelled + r.timed_out + r.rejected > 0;
  if (r.warmup_requests == 0 || measured || options.limit_requests > 0) return ok_status();
  return invalid_input("all " + std::to_string(r.warmup_requests) +
                           " requests arrive within the warm-up, so that nothing is measured; expected less "
                           "than the workload's span",
                       {}, "workload.warmup_s");
}

// What simulating a pool takes; nothing in it moves once it is made.
struct PoolRun {
  const PoolSpec* spec = nullptr;
  StepPricer pricer;
  ImageParts images;
  Acceptance acceptance;
  std::unique_ptr<Router> router;
  std::unique_ptr<CostModelExecutor> executor;
  SchedulerConfig config;

  std::size_t engines() const { return static_cast<std::size_t>(spec->engines()); }
};

struct RunParts {
  const Scenario* scenario = nullptr;
  PriceScales scales;
  bool stretches = true;
  ExpertChoiceLog* choices = nullptr;
  OutputLengths oracle;
  std::vector<std::unique_ptr<PoolRun>> pools;
};

Status add_pool(RunParts& parts, const PoolSpec& spec, std::size_t first_instance) {
  const std::uint64_t seed = parts.scenario->seed;
  const InstanceSpec& instance = spec.instance;
  ORRERY_TRY(pricer, StepPricer::create(instance, parts.scales));
  std::int32_t servers = 0;
  for (const PoolSpec* other : parts.scenario->pools())
    servers += other->role == spec.role ? other->engines() : 0;
  ORRERY_TRY(images, ImageParts::create(spec, parts.scales, servers));
  ORRERY_TRY(acceptance, open_acceptance(instance.speculation, seed));
  if (find_scheduler(instance.engine.scheduler) == nullptr) {
    return make_error(ErrorKind::invalid_input,
                      "the engine profile names an unknown scheduler " + instance.engine.scheduler);
  }
  parts.pools.push_back(std::make_unique<PoolRun>(PoolRun{.spec = &spec,
                                                          .pricer = std::move(pricer),
                                                          .images = std::move(images),
                                                          .acceptance = std::move(acceptance),
                                                          .router = nullptr,
                                                          .executor = nullptr,
                                                          .config = spec.scheduler_config()}));
  PoolRun& pool = *parts.pools.back();
  pool.config.front_ends = front_end_count(instance, parts.scenario->workload);
  pool.config.seed = seed;
  pool.config.stretches = parts.stretches;
  pool.config.sends_kv = spec.role != PoolRole::mixed && parts.scenario->pd.at_once;
  pool.config.recompute_failed_loads = parts.scenario->pd.recompute_failed;
  pool.config.steps_in_flight = pool.pricer.steps_in_flight();
  const std::size_t engines = pool.engines();
  pool.executor = std::make_unique<CostModelExecutor>(
      std::vector<const StepPricer*>(engines, &pool.pricer), parts.oracle,
      LaunchJitter(launch_spread(instance.engine.host), seed, engines, first_instance),
      pool.images.encoder.get(), pool.acceptance.oracle());
  ORRERY_TRY_STATUS(add_host_links(spec, *pool.executor));
  pool.executor->know_stages(instance.plan.gpus() / instance.plan.pp);
  if (spec.first_request_effects)
    pool.executor->charge_first_use(FirstUse(instance, parts.scales.host, engines));
  pool.executor->wait_between_passes(duration_from_nanoseconds(batch_wait_ns(instance.engine.settings)));
  if (spec.role == PoolRole::encoder) pool.executor->encode_only();
  pool.executor->follow_experts(ExpertRun(instance, pool.pricer, engines, first_instance));
  pool.executor->tell_choices(parts.choices);
  pool.executor->follow_waves(idle_waves(instance, pool.pricer, engines));
  return ok_status();
}

// One for each role, the first pool's.
void add_routers(RunParts& parts) {
  for (const auto& pool : parts.pools) {
    std::vector<PricedPool> group;
    PoolRun* first = nullptr;
    for (const auto& other : parts.pools) {
      if (other->spec->role != pool->spec->role) continue;
      if (first == nullptr) first = other.get();
      group.push_back({other->spec, &other->pricer});
    }
    if (first == pool.get())
      first->router =
          make_router(*first->spec, router_config(first->spec->router, group), first->config.front_ends);
    if (first->router->watches_steps()) pool->config.stretches = false;
  }
}

Result<std::unique_ptr<RunParts>> make_parts(const Scenario& scenario, const RunOptions& options) {
  auto parts = std::make_unique<RunParts>();
  parts->scenario = &scenario;
  parts->scales = product(scenario.what_if, options.scales);
  parts->stretches = options.stretches;
  parts->choices = options.choices;
  std::size_t instances = 0;
  for (const PoolSpec* pool : scenario.pools()) {
    ORRERY_TRY_STATUS(add_pool(*parts, *pool, instances));
    instances += static_cast<std::size_t>(pool->engines());
  }
  add_routers(*parts);
  return parts;
}

// From the client to the nearest engine where requests arrive.
SimDuration inbox_delay(const RunParts& parts) {
  SimDuration least(INT64_MAX);
  const bool only_prefill = !parts.scenario->pd.at_once && parts.scenario->pd.local_below == 0;
  for (const auto& pool : parts.pools)
    if (!only_prefill || pool->spec->role != PoolRole::decode)
      least = std::min(least, pool->pricer.input_delay());
  return least;
}

// Who takes requests with images in: the first encoder pool, or prefill pool, else the only pool.
PoolRun& eyes(const RunParts& parts) {
  for (const PoolRole role : {PoolRole::encoder, PoolRole::prefill})
    for (const auto& pool : parts.pools)
      if (pool->spec->role == role) return *pool;
  return *parts.pools.front();
}

std::unique_ptr<Scheduler> fresh_scheduler(const PoolRun& pool) {
  return make_instance_scheduler(*find_scheduler(pool.spec->instance.engine.scheduler), pool.config,
                                 pool.pricer.ranks());
}

void add_to_setup(const PoolRun& pool, const RunParts& parts, SimulationSetup& setup) {
  const InstanceSpec& instance = pool.spec->instance;
  PoolSetup s{.name = pool.spec->name,
              .instances = pool.engines(),
              .role = pool.spec->role,
              .router = pool.router.get(),
              .telemetry = pool.spec->router.telemetry(),
              .batch = {},
              .front_end = {},
              .input_delay = pool.pricer.input_delay() - inbox_delay(parts),
              .proxy_delay = pool.pricer.input_delay(),
              .input_per_request = pool.pricer.input_per_request(),
              .core_wake = pool.pricer.core_wake(),
              .from_proxy = inbox_delay(parts),
              .abort_delay = pool.pricer.input_delay(),
              .stream = stream_rule(instance)};
  if (pool.spec->router.gathers_batches()) s.batch = pool.spec->router.batch;
  if (parts.scenario->workload.openai_frontend)
    s.front_end = front_end_config(instance.engine, parts.scales.host);
  s.client_prepares = !s.front_end && pool.images.front_end && pool.images.front_end->one_loop();
  setup.pools.push_back(std::move(s));
  for (std::size_t i = 0; i < pool.engines(); ++i) setup.schedulers.push_back(fresh_scheduler(pool));
}

// Instances that come and go; null where all stay.
Result<std::unique_ptr<FleetPlan>> add_fleet(const RunParts& parts, SimulationSetup& setup) {
  const Scenario& s = *parts.scenario;
  if (!has_changes(s.faults, s.pools())) return std::unique_ptr<FleetPlan>();
  std::vector<FabricTransport::Seat> seats;
  if (s.topology != nullptr) {
    ORRERY_TRY(known, seat_instances(*s.topology, s.pools(), s.pd));
    seats = std::move(known);
  }
  auto plan =
      std::make_unique<FleetPlan>(fleet_plan(s.faults, s.recovery, s.pools(), seats, s.topology.get()));
  setup.fleet = plan.get();
  setup.make_scheduler = [&parts](InstanceId instance) {
    std::size_t left = instance.value();
    for (const auto& pool : parts.pools) {
      if (left < pool->engines()) return fresh_scheduler(*pool);
      left -= pool->engines();
    }
    return std::unique_ptr<Scheduler>();
  };
  return plan;
}

void report_pools(const RunParts& parts, EnergyMeter* energy, RunResult& result) {
  RungTimes ns{};
  double total = 0;
  // Shares of several pools with stages would not add up to anything.
  const auto staged = std::count_if(parts.pools.begin(), parts.pools.end(),
                                    [](const auto& p) { return p->spec->instance.plan.pp > 1; });
  for (std::size_t i = 0; i < parts.pools.size(); ++i) {
    const PoolRun& pool = *parts.pools[i];
    report_device(*pool.executor, result);
    if (staged == 1) report_stages(pool.executor->usage(), result.pipeline);
    pool.images.report(pool.executor->usage(), result);
    pool.executor->experts().report(result.experts);
    total += add_price_sources(pool.pricer, pool.images.encoder.get(), pool.executor->usage(), ns);
    if (energy != nullptr) energy->add(i, pool.pricer, pool.executor->usage());
    describe_pool(*pool.spec, pool.config.block_size, result.pools[i]);
  }
  result.price_sources = shares_of(ns, total);
}

}  // namespace

Result<RunResult> run_scenario(const Scenario& scenario, const RunOptions& options) {
  WorkloadSpec workload = scenario.workload;
  workload.time_scale *= options.rate_factor;
  if (options.limit_requests > 0 &&
      (workload.limit_requests == 0 || workload.limit_requests > options.limit_requests)) {
    workload.limit_requests = options.limit_requests;
  }
  std::unique_ptr<RequestSource> source;
  if (!options.make_inbox) {
    ORRERY_TRY(opened, open_workload(workload, scenario.seed));
    source = std::move(opened);
  }
  ORRERY_TRY(parts, make_parts(scenario, options));
  PoolRun& first = *parts->pools.front();
  const std::unique_ptr<Inbox> inbox =
      options.make_inbox ? options.make_inbox(inbox_delay(*parts), parts->oracle)
                         : std::make_unique<TraceInbox>(std::move(source), inbox_delay(*parts),
                                                        workload.closed_loop_concurrency, parts->oracle,
                                                        eyes(*parts).images.front_end.get());
  std::optional<PooledExecutor> pooled;
  if (parts->pools.size() > 1) {
    std::vector<PooledExecutor::Part> executors;
    for (const auto& pool : parts->pools) executors.push_back({pool->executor.get(), pool->engines()});
    pooled.emplace(executors);
  }
  VirtualClock clock;
  SimulationSetup setup;
  setup.clock = &clock;
  setup.executor = pooled ? static_cast<Executor*>(&*pooled) : first.executor.get();
  setup.inbox = inbox.get();
  ORRERY_TRY(transport, make_transport(scenario));
  setup.transport = transport.get();
  setup.pd = scenario.pd;
  if (transport != nullptr) {
    std::vector<CostModelExecutor*> executors;
    for (const auto& pool : parts->pools) executors.push_back(pool->executor.get());
    ORRERY_TRY_STATUS(share_links(scenario, executors, *setup.executor, *transport));
  }
  for (const auto& pool : parts->pools) add_to_setup(*pool, *parts, setup);
  ORRERY_TRY(fleet, add_fleet(*parts, setup));
  setup.sink = options.sink;
  setup.observer = options.observer;
  setup.slo = scenario.slo.limits();
  setup.warmup = SimDuration(round_half_even(workload.warmup_s * 1e9));
  setup.per_request_itl = options.per_request_itl;
  setup.seed = scenario.seed;
  setup.keep_going = options.keep_going;
  if (options.arrange) options.arrange(setup);
  ORRERY_TRY(result, run_simulation(std::move(setup)));

  for (const auto& p : parts->pools)
    ORRERY_TRY_STATUS(check_log(p->spec->instance.speculation, p->acceptance));
  ORRERY_TRY_STATUS(check_measured(result, options));
  report_pools(*parts, options.energy, result);
  if (transport != nullptr && is_disaggregated(scenario.pools()))
    report_transport(*transport, has_decoders(scenario), result);
  return result;
}

}  // namespace orrery
