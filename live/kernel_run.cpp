#include "live/kernel_run.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/statistics.h"
#include "base/text.h"
#include "sim/costed/run.h"
#include "sim/simulation.h"
#include "sim/trace_inbox.h"
#include "workloads/workload.h"

namespace orrery {

namespace {

constexpr std::int64_t kernel_block = 16;  // tokens of a KV block that the kernels are written for

// Notes what is read.
class NotedSource final : public RequestSource {
 public:
  NotedSource(std::unique_ptr<RequestSource> source, std::vector<TraceRequest>& noted)
      : source_(std::move(source)), noted_(noted) {}
  bool next(TraceRequest& request) override {
    if (!source_->next(request)) return false;
    noted_.push_back(request);
    return true;
  }
  const Error* error() const override { return source_->error(); }
  std::uint64_t size_hint() const override { return source_->size_hint(); }

 private:
  std::unique_ptr<RequestSource> source_;
  std::vector<TraceRequest>& noted_;
};

// Tells the executor what requests hold, which a plan does not say.
class ToldInbox final : public Inbox {
 public:
  ToldInbox(std::unique_ptr<Inbox> inbox, KernelExecutor* const& executor)
      : inbox_(std::move(inbox)), executor_(executor) {}
  SimTime next() const override { return inbox_->next(); }
  void poll(SimTime now, Arrivals& arrivals) override {
    const std::size_t before = arrivals.size();
    inbox_->poll(now, arrivals);
    for (std::size_t i = before; i < arrivals.size(); ++i) executor_->arrived(arrivals[i]);
  }
  void poll_departures(SimTime now, std::vector<RequestId>& gone) override {
    inbox_->poll_departures(now, gone);
  }
  void on_finished(RequestId request, SimTime at) override {
    executor_->over(request);
    inbox_->on_finished(request, at);
  }
  const Error* error() const override { return inbox_->error(); }

 private:
  std::unique_ptr<Inbox> inbox_;
  KernelExecutor* const& executor_;
};

class KeptRecords final : public RecordSink {
 public:
  explicit KeptRecords(EndpointRun& run) : run_(run) {}
  void on_request(const RequestRecord& r) override {
    EndpointRecord out;
    out.request = r.request;
    out.intended = out.sent = r.arrival.ns();
    out.status = r.status;
    out.prompt_tokens = r.prompt_tokens;
    out.output_tokens = out.events = r.output_tokens;
    out.tries = 1;
    if (r.output_tokens > 0) {
      out.first = (r.arrival + r.ttft).ns();
      out.last = (r.arrival + r.e2e).ns();
    }
    run_.records.push_back(std::move(out));
  }

 private:
  EndpointRun& run_;
};

double predicted_ns(const StepPricer& pricer, const KernelStep& step) {
  StepShape shape = step.shape;
  shape.prefill = step.chunks;
  return static_cast<double>(pricer.summarize(shape).device_ns);
}

std::uint64_t most_at_once(const std::vector<EndpointRecord>& records) {
  std::vector<std::pair<std::int64_t, int>> changes;
  for (const EndpointRecord& r : records) {
    changes.emplace_back(r.intended, 1);
    changes.emplace_back(std::max(r.last, r.intended), -1);
  }
  std::sort(changes.begin(), changes.end());
  std::int64_t now = 0, most = 0;
  for (const auto& change : changes) most = std::max(most, now += change.second);
  return static_cast<std::uint64_t>(most);
}

const char* kind_of(const KernelStep& s) {
  return s.chunks.empty() ? "decode" : s.shape.decode_sequences > 0 ? "mixed" : "prefill";
}

}  // namespace

KernelDemand kernel_demand(const Scenario& scenario, bool waits) {
  const SchedulerConfig config = scenario.scheduler_config();
  const auto& graphs = scenario.pool.instance.engine.settings.cudagraph_sizes;
  KernelDemand d;
  d.instance = &scenario.pool.instance;
  d.instances = scenario.pool.engines();
  d.blocks = config.num_gpu_blocks;
  d.max_rows = std::max(config.max_num_batched_tokens, graphs.empty() ? 0 : graphs.back());
  d.max_sequences = std::min(config.max_num_seqs, config.max_num_batched_tokens);
  if (!graphs.empty()) d.max_sequences = std::max(d.max_sequences, std::min(graphs.back(), d.max_rows));
  d.max_positions = config.max_model_len;
  d.ranks = static_cast<std::int32_t>(scenario.pool.instance.plan.tp);
  d.seed = scenario.seed;
  d.waits = waits;
  return d;
}

Status check_kernel_scenario(const Scenario& s, bool waits) {
  Errors errors;
  const auto refuse = [&](bool wrong, const char* key, const std::string& why) {
    if (wrong) errors.push_back(invalid_input(why + " (docs/limits.md)", {s.file, 0, 0}, key));
  };
  const PoolSpec& pool = s.pool;
  const InstanceSpec& i = pool.instance;
  const SchedulerConfig config = s.scheduler_config();
  refuse(!s.other_pools.empty() || pool.role != PoolRole::mixed, "deployment.pools",
         "several pools do not run on kernels");
  refuse(i.plan.gpus() > i.plan.tp || i.plan.tp > 2 || (i.plan.ep > 1 && i.plan.tp > 1),
         "deployment.parallel",
         "kernels run on one GPU an instance, or on two that share out its layers (tp: 2)");
  refuse(i.engine.scheduler != "vllm-v1", "deployment.engine",
         "only the rules of vLLM's scheduler run on kernels (engine: orrery, or a vLLM)");
  refuse(i.speculation.on(), "deployment.speculation", "drafts do not run on kernels");
  refuse(i.experts.on(), "deployment.experts", "hotspots of experts do not run on kernels");
  refuse(config.kv_groups.count() > 1 || config.kv_groups.states > 0, "deployment.model",
         "layers with windows or states do not run on kernels");
  refuse(config.offload.blocks > 0, "deployment.engine_args",
         "a tier of KV in host memory does not run on kernels");
  refuse(config.block_size != kernel_block, "deployment.engine_args.block_size",
         "kernels read KV blocks of 16 tokens");
  refuse(pool.router.policy == "kv-aware", "deployment.router",
         "kv-aware listens to what kernels' blocks are placed by");
  refuse(pool.first_request_effects, "deployment.first_request_effects",
         "what a first use takes is not modelled beside real kernels");
  refuse(!s.faults.empty() || pool.autoscale || pool.update_at_s >= 0, "faults",
         "instances on kernels do not come and go");
  refuse(s.is_what_if, "overrides.op_scale", "a what-if has no kernels");
  refuse(waits && pool.engines() > 1, "deployment.replicas",
         "one GPU is one instance in real time; --clock virtual lets it stand for several");
  refuse(waits && s.workload.openai_frontend, "workload.frontend", "the live engine has no API server");
  if (!errors.empty()) return errors;
  return ok_status();
}

namespace {

struct Cell {
  const Scenario& scenario;
  const KernelRunOptions& options;
  const KernelDemand& demand;
  KernelDevice& device;
  bool waits;
  TapeRecorder* tape;
};

Result<KernelRun> run_cell(const Cell& cell) {
  const Scenario& scenario = cell.scenario;
  ORRERY_TRY(pricer, StepPricer::create(scenario.pool.instance, scenario.what_if));
  ORRERY_TRY(opened, open_workload(scenario.workload, scenario.seed));
  KernelRun out;
  out.device = cell.device.name;
  out.own_pools = cell.device.own_pools;
  std::unique_ptr<RequestSource> source = std::make_unique<NotedSource>(std::move(opened), out.seen.requests);
  KeptRecords records(out.seen);
  WallClock clock;
  std::unique_ptr<KernelExecutor> executor;
  KernelExecutor* told = nullptr;
  const auto interrupted = [&] { return cell.options.keep_going && !cell.options.keep_going(0); };
  KernelExecutor::Options wanted{.pricer = &pricer,
                                 .runner = cell.device.runner.get(),
                                 .blocks = cell.demand.blocks,
                                 .block_size = static_cast<std::int32_t>(kernel_block),
                                 .own_pools = cell.device.own_pools,
                                 .graph_sizes = scenario.pool.instance.engine.settings.cudagraph_sizes,
                                 .seed = scenario.seed,
                                 .vocabulary = scenario.pool.instance.model.vocabulary,
                                 .clock = cell.waits ? &clock : nullptr,
                                 .emulate_host = cell.options.emulate_host,
                                 .stop = [&] { return told->failed() || interrupted(); }};
  RunOptions run;
  run.stretches = false;
  run.sink = &records;
  run.keep_going = [&](std::uint64_t n) {
    return (told == nullptr || !told->failed()) && (!cell.options.keep_going || cell.options.keep_going(n));
  };
  run.make_inbox = [&](SimDuration input_delay, OutputLengths& oracle) -> std::unique_ptr<Inbox> {
    wanted.oracle = &oracle;
    auto inbox = std::make_unique<TraceInbox>(std::move(source), input_delay,
                                              scenario.workload.closed_loop_concurrency, oracle);
    return std::make_unique<ToldInbox>(std::move(inbox), told);
  };
  run.arrange = [&](SimulationSetup& setup) {
    wanted.instances = setup.schedulers.size();
    executor = std::make_unique<KernelExecutor>(wanted);
    told = executor.get();
    setup.executor = told;
    for (std::uint32_t i = 0; i < setup.schedulers.size(); ++i)
      ORRERY_CHECK(setup.schedulers[i]->watch_cache(told->cache_events(InstanceId(i))),
                   "the scheduler says what its cache holds");
    clock.restart();
    clock.watch(wanted.stop);  // what is left of a run that failed is not waited for
    if (cell.waits) setup.clock = &clock;
    clock.stay_awake();
    if (cell.tape != nullptr) cell.tape->arrange(setup);
  };
  auto result = run_scenario(scenario, run);
  if (executor != nullptr && !executor->failure().empty())
    return make_error(ErrorKind::unavailable, cell.device.name + ": " + executor->failure());
  if (!result.ok()) return result.errors();
  if (executor->stopped()) return make_error(ErrorKind::interrupted, "interrupted");
  out.result = std::move(*result);
  out.steps = executor->steps();
  for (std::uint32_t i = 0; i < cell.demand.instances; ++i)
    out.missed_blocks += executor->blocks(InstanceId(i)).missed();
  out.seen.model = scenario.pool.instance.model.name;
  out.seen.itl = out.result.itl;
  if (cell.waits) out.seen.lateness = clock.lateness();
  // No kv_blocks: they are the plan's, nobody counted them. The simulated API server has the scenario's
  // texts.
  out.seen.text_prompts = scenario.workload.openai_frontend;
  out.seen.most_streams = most_at_once(out.seen.records);
  out.seen.duration_s = (out.result.last_finish - out.result.first_arrival).seconds();
  return out;
}

}  // namespace

Result<KernelRun> run_on_kernels(const Scenario& scenario, const KernelRunOptions& options) {
  ORRERY_TRY_STATUS(check_kernel_scenario(scenario, options.waits));
  const KernelDemand demand = kernel_demand(scenario, options.waits);
  ORRERY_TRY(device, options.make_device(demand));
  if (options.waits && options.rehearse) {
    const auto rehearsed = run_cell({scenario, options, demand, device, false, nullptr});
    if (!rehearsed.ok()) return rehearsed.errors();
  }
  return run_cell({scenario, options, demand, device, options.waits, options.tape});
}

Result<std::string> kernel_steps_csv(const Scenario& scenario, const KernelRun& run) {
  ORRERY_TRY(pricer, StepPricer::create(scenario.pool.instance));
  std::string out =
      "instance,step,submitted_s,prefill_tokens,chunks,prefill_context,decodes,decode_context,padded_rows,"
      "predicted_us,measured_us,launch_us,host_us,first_use\n";
  const auto us = [](double ns) { return format_fixed(ns * 1e-3, 2); };
  for (const KernelStep& s : run.steps) {
    std::int64_t tokens = 0, context = 0;
    for (const PrefillChunk& c : s.chunks) {
      tokens += c.new_tokens;
      context += c.context;
    }
    out += std::to_string(s.instance.value()) + "," + std::to_string(s.step) + "," +
           format_nanoseconds_as_seconds(s.submitted.ns()) + "," + std::to_string(tokens) + "," +
           std::to_string(s.chunks.size()) + "," + std::to_string(context) + "," +
           std::to_string(s.shape.decode_sequences) + "," + std::to_string(s.shape.decode_context_tokens) +
           "," + std::to_string(s.padded_rows) + "," + us(predicted_ns(pricer, s)) + "," +
           us(static_cast<double>(s.device_ns)) + "," + us(static_cast<double>(s.launch_ns)) + "," +
           us(static_cast<double>(s.host_ns)) + "," + (s.first_use ? "1" : "0") + "\n";
  }
  return out;
}

Result<Json> kernel_steps_json(const Scenario& scenario, const KernelRun& run) {
  ORRERY_TRY(pricer, StepPricer::create(scenario.pool.instance));
  Json out = Json::object();
  for (const char* kind : {"prefill", "mixed", "decode"}) {
    double predicted = 0, measured = 0;
    std::vector<double> errors;
    for (const KernelStep& s : run.steps) {
      if (kind != std::string(kind_of(s)) || s.device_ns <= 0) continue;
      const double p = predicted_ns(pricer, s), m = static_cast<double>(s.device_ns);
      predicted += p;
      measured += m;
      errors.push_back((p / m - 1) * 100);
    }
    if (errors.empty()) continue;
    std::sort(errors.begin(), errors.end());
    out[kind] = {{"steps", errors.size()},
                 {"predicted_ms", predicted * 1e-6},
                 {"measured_ms", measured * 1e-6},
                 {"error_percent", (predicted / measured - 1) * 100},
                 {"step_error_percent",
                  {{"p5", linear_percentile(errors, 5)},
                   {"p50", linear_percentile(errors, 50)},
                   {"p95", linear_percentile(errors, 95)}}}};
  }
  std::vector<double> host;
  for (const KernelStep& s : run.steps) host.push_back(static_cast<double>(s.host_ns) * 1e-3);
  std::sort(host.begin(), host.end());
  if (!host.empty())
    out["host_us"] = {
        {"p50", linear_percentile(host, 50)}, {"p99", linear_percentile(host, 99)}, {"mean", mean_of(host)}};
  out["kv_pools"] = run.own_pools ? "one an instance" : "shared by all instances: contents are nobody's";
  out["kv_blocks_missed"] = run.missed_blocks;
  out["first_uses"] =
      std::count_if(run.steps.begin(), run.steps.end(), [](const KernelStep& s) { return s.first_use; });
  out["device"] = run.device;
  return out;
}

}  // namespace orrery
