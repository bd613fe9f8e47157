#include "live/kernel_run.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "base/statistics.h"
#include "base/text.h"
#include "live/kernel_transport.h"
#include "sim/costed/pooled_executor.h"
#include "sim/costed/run.h"
#include "sim/simulation.h"
#include "sim/trace_inbox.h"
#include "workloads/workload.h"

namespace orrery {

namespace {

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

using Executors = std::vector<std::unique_ptr<KernelExecutor>>;  // a pool each

// Tells the executors what requests hold, which a plan does not say.
class ToldInbox final : public Inbox {
 public:
  ToldInbox(std::unique_ptr<Inbox> inbox, const Executors& executors)
      : inbox_(std::move(inbox)), executors_(executors) {}
  SimTime next() const override { return inbox_->next(); }
  void poll(SimTime now, Arrivals& arrivals) override {
    const std::size_t before = arrivals.size();
    inbox_->poll(now, arrivals);
    for (std::size_t i = before; i < arrivals.size(); ++i)
      for (const auto& executor : executors_) executor->arrived(arrivals[i]);
  }
  void poll_departures(SimTime now, std::vector<RequestId>& gone) override {
    inbox_->poll_departures(now, gone);
  }
  void on_finished(RequestId request, SimTime at) override {
    for (const auto& executor : executors_) executor->over(request);
    inbox_->on_finished(request, at);
  }
  const Error* error() const override { return inbox_->error(); }

 private:
  std::unique_ptr<Inbox> inbox_;
  const Executors& executors_;
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

KernelDemand kernel_demand(const PoolSpec& pool, std::uint64_t seed, bool waits) {
  const SchedulerConfig config = pool.scheduler_config();
  const auto& graphs = pool.instance.engine.settings.cudagraph_sizes;
  KernelDemand d;
  d.instance = &pool.instance;
  d.instances = pool.engines();
  d.blocks = config.num_gpu_blocks;
  d.max_rows = std::max(config.max_num_batched_tokens, graphs.empty() ? 0 : graphs.back());
  d.max_sequences = std::min(config.max_num_seqs, config.max_num_batched_tokens);
  if (!graphs.empty()) d.max_sequences = std::max(d.max_sequences, std::min(graphs.back(), d.max_rows));
  d.max_positions = config.max_model_len;
  d.ranks = static_cast<std::int32_t>(pool.instance.plan.tp);
  d.shares_experts = pool.instance.plan.ep > 1;
  const ExpertSpec& experts = pool.instance.experts;
  if (experts.on())
    d.popularity = std::make_shared<const ExpertPopularity>(
        experts.popularity, experts.layers, static_cast<std::int32_t>(pool.instance.model.experts),
        static_cast<std::int32_t>(pool.instance.model.experts_per_token), experts.seed);
  d.seed = seed;
  d.waits = waits;
  return d;
}

namespace {

struct Pool {
  KernelDemand demand;
  KernelDevice device;
};
struct Cell {
  const Scenario& scenario;
  const KernelRunOptions& options;
  std::vector<Pool>& pools;
  KvMover* mover;
  bool waits;
  TapeRecorder* tape;
};

// What stands behind the seams while a cell runs.
class CellSeams {
 public:
  explicit CellSeams(const Cell& cell) : cell_(cell) {}

  Status prepare() {
    for (const PoolSpec* pool : cell_.scenario.pools()) {
      ORRERY_TRY(pricer, StepPricer::create(pool->instance, cell_.scenario.what_if));
      pricers.push_back(std::make_unique<StepPricer>(std::move(pricer)));
    }
    return ok_status();
  }
  bool failed() const {
    return std::any_of(executors.begin(), executors.end(), [](const auto& e) { return e->failed(); }) ||
           (transport && transport->failed());
  }
  bool stopped() const {
    return std::any_of(executors.begin(), executors.end(), [](const auto& e) { return e->stopped(); });
  }
  std::string failure() const {
    for (std::size_t i = 0; i < executors.size(); ++i)
      if (const std::string why = executors[i]->failure(); !why.empty())
        return cell_.pools[i].device.name + ": " + why;
    return transport ? transport->failure() : "";
  }
  void arrange(SimulationSetup& setup) {
    const auto stop = [this] {
      return failed() || (cell_.options.keep_going && !cell_.options.keep_going(0));
    };
    std::vector<PooledExecutor::Part> parts;
    std::uint32_t instance = 0;
    for (std::size_t i = 0; i < cell_.pools.size(); ++i) {
      executors.push_back(std::make_unique<KernelExecutor>(executor_options(i, stop)));
      parts.push_back({executors.back().get(), static_cast<std::size_t>(cell_.pools[i].demand.instances)});
      for (std::uint32_t own = 0; own < parts.back().instances; ++own)
        ORRERY_CHECK(
            setup.schedulers[instance++]->watch_cache(executors.back()->cache_events(InstanceId(own))),
            "the scheduler says what its cache holds");
    }
    setup.executor = executors.front().get();
    if (parts.size() > 1) setup.executor = &pooled.emplace(parts);
    if (cell_.mover != nullptr) {
      transport.emplace(KernelTransport::Options{executors[0].get(), executors[1].get(), cell_.mover,
                                                 cell_.waits ? &clock : nullptr});
      setup.transport = &*transport;
    }
    clock.restart();
    clock.watch(stop);  // what is left of a run that failed is not waited for
    if (cell_.waits) setup.clock = &clock;
    clock.stay_awake();
    if (cell_.tape != nullptr) cell_.tape->arrange(setup);
  }

  WallClock clock;
  OutputLengths* oracle = nullptr;
  std::vector<std::unique_ptr<StepPricer>> pricers;
  Executors executors;
  std::optional<PooledExecutor> pooled;
  std::optional<KernelTransport> transport;

 private:
  KernelExecutor::Options executor_options(std::size_t i, const std::function<bool()>& stop) {
    const PoolSpec& pool = *cell_.scenario.pools()[i];
    return {.instances = static_cast<std::size_t>(cell_.pools[i].demand.instances),
            .pricer = pricers[i].get(),
            .oracle = oracle,
            .runner = cell_.pools[i].device.runner.get(),
            .blocks = cell_.pools[i].demand.blocks,
            .block_size = static_cast<std::int32_t>(kernel_block),
            .own_pools = cell_.pools[i].device.own_pools,
            .graph_sizes = pool.instance.engine.settings.cudagraph_sizes,
            .seed = cell_.scenario.seed,
            .vocabulary = pool.instance.model.vocabulary,
            .popularity = cell_.pools[i].demand.popularity,
            .clock = cell_.waits ? &clock : nullptr,
            .emulate_host = cell_.options.emulate_host,
            .stop = stop,
            .layers = pool.instance.model.layers,
            .apart = cell_.pools.size() > 1,
            .hands_over = pool.role == PoolRole::prefill};
  }

  const Cell& cell_;
};

void keep_steps(const Cell& cell, const CellSeams& seams, KernelRun& out) {
  std::uint32_t first = 0;
  for (std::size_t i = 0; i < seams.executors.size(); ++i) {
    const KernelExecutor& executor = *seams.executors[i];
    for (KernelStep step : executor.steps()) {
      step.pool = static_cast<std::uint32_t>(i);
      step.instance = InstanceId(step.instance.value() + first);
      out.steps.push_back(std::move(step));
    }
    const auto instances = static_cast<std::uint32_t>(cell.pools[i].demand.instances);
    for (std::uint32_t own = 0; own < instances; ++own)
      out.missed_blocks += executor.blocks(InstanceId(own)).missed();
    first += instances;
  }
  if (!seams.transport) return;
  out.moves = seams.transport->moves();
  out.moved_blocks = seams.transport->blocks();
  out.moving_ns = seams.transport->busy_ns();
}

Result<KernelRun> run_cell(const Cell& cell) {
  const Scenario& scenario = cell.scenario;
  ORRERY_TRY(opened, open_workload(scenario.workload, scenario.seed));
  KernelRun out;
  for (const Pool& pool : cell.pools) {
    out.device += (out.device.empty() ? "" : "; ") + pool.device.name;
    out.own_pools = out.own_pools && pool.device.own_pools;
  }
  std::unique_ptr<RequestSource> source = std::make_unique<NotedSource>(std::move(opened), out.seen.requests);
  KeptRecords records(out.seen);
  CellSeams seams(cell);
  ORRERY_TRY_STATUS(seams.prepare());
  RunOptions run;
  run.stretches = false;
  run.sink = &records;
  run.keep_going = [&](std::uint64_t n) {
    return !seams.failed() && (!cell.options.keep_going || cell.options.keep_going(n));
  };
  run.make_inbox = [&](SimDuration input_delay, OutputLengths& oracle) -> std::unique_ptr<Inbox> {
    seams.oracle = &oracle;
    auto inbox = std::make_unique<TraceInbox>(std::move(source), input_delay,
                                              scenario.workload.closed_loop_concurrency, oracle);
    return std::make_unique<ToldInbox>(std::move(inbox), seams.executors);
  };
  run.arrange = [&](SimulationSetup& setup) { seams.arrange(setup); };
  auto result = run_scenario(scenario, run);
  if (const std::string why = seams.failure(); !why.empty()) return make_error(ErrorKind::unavailable, why);
  if (!result.ok()) return result.errors();
  if (seams.stopped()) return make_error(ErrorKind::interrupted, "interrupted");
  out.result = std::move(*result);
  keep_steps(cell, seams, out);
  out.seen.model = scenario.pool.instance.model.name;
  out.seen.itl = out.result.itl;
  if (cell.waits) out.seen.lateness = seams.clock.lateness();
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
  std::vector<Pool> pools;
  std::int32_t devices = 0;
  for (const PoolSpec* pool : scenario.pools()) {
    KernelDemand demand = kernel_demand(*pool, scenario.seed, options.waits);
    demand.marks_layers = options.waits && pool->role == PoolRole::prefill && scenario.pd.layers > 0;
    demand.first_device = std::exchange(devices, devices + demand.ranks);
    ORRERY_TRY(device, options.make_device(demand));
    pools.push_back({demand, std::move(device)});
  }
  std::unique_ptr<KvMover> mover;
  if (pools.size() > 1) {
    ORRERY_TRY(made, options.make_mover());
    mover = std::move(made);
  }
  if (options.waits && options.rehearse) {
    const auto rehearsed = run_cell({scenario, options, pools, mover.get(), false, nullptr});
    if (!rehearsed.ok()) return rehearsed.errors();
  }
  return run_cell({scenario, options, pools, mover.get(), options.waits, options.tape});
}

namespace {

Result<std::vector<std::unique_ptr<StepPricer>>> pricers_of(const Scenario& scenario) {
  std::vector<std::unique_ptr<StepPricer>> pricers;
  for (const PoolSpec* pool : scenario.pools()) {
    ORRERY_TRY(pricer, StepPricer::create(pool->instance));
    pricers.push_back(std::make_unique<StepPricer>(std::move(pricer)));
  }
  return pricers;
}

}  // namespace

Result<std::string> kernel_steps_csv(const Scenario& scenario, const KernelRun& run) {
  ORRERY_TRY(pricers, pricers_of(scenario));
  std::string out =
      "instance,step,submitted_s,prefill_tokens,chunks,prefill_context,decodes,decode_context,padded_rows,"
      "predicted_us,measured_us,launch_us,host_us,first_use,chunk_lengths\n";
  const auto us = [](double ns) { return format_fixed(ns * 1e-3, 2); };
  for (const KernelStep& s : run.steps) {
    std::int64_t tokens = 0, context = 0;
    std::string lengths;  // as a step log has them (docs/step_log.md)
    for (const PrefillChunk& c : s.chunks) {
      tokens += c.new_tokens;
      context += c.context;
      lengths +=
          (lengths.empty() ? "" : " ") + std::to_string(c.new_tokens) + "@" + std::to_string(c.context);
    }
    out += std::to_string(s.instance.value()) + "," + std::to_string(s.step) + "," +
           format_nanoseconds_as_seconds(s.submitted.ns()) + "," + std::to_string(tokens) + "," +
           std::to_string(s.chunks.size()) + "," + std::to_string(context) + "," +
           std::to_string(s.shape.decode_sequences) + "," + std::to_string(s.shape.decode_context_tokens) +
           "," + std::to_string(s.padded_rows) + "," + us(predicted_ns(*pricers[s.pool], s)) + "," +
           us(static_cast<double>(s.device_ns)) + "," + us(static_cast<double>(s.launch_ns)) + "," +
           us(static_cast<double>(s.host_ns)) + "," + (s.first_use ? "1" : "0") + "," + lengths + "\n";
  }
  return out;
}

Result<Json> kernel_steps_json(const Scenario& scenario, const KernelRun& run) {
  ORRERY_TRY(pricers, pricers_of(scenario));
  Json out = Json::object();
  for (const char* kind : {"prefill", "mixed", "decode"}) {
    double predicted = 0, measured = 0;
    std::vector<double> errors;
    for (const KernelStep& s : run.steps) {
      if (kind != std::string(kind_of(s)) || s.device_ns <= 0) continue;
      const double p = predicted_ns(*pricers[s.pool], s), m = static_cast<double>(s.device_ns);
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
  if (run.moves > 0)
    out["kv_moved"] = {{"moves", run.moves},
                       {"blocks", run.moved_blocks},
                       {"busy_ms", static_cast<double>(run.moving_ns) * 1e-6}};
  out["first_uses"] =
      std::count_if(run.steps.begin(), run.steps.end(), [](const KernelStep& s) { return s.first_use; });
  out["device"] = run.device;
  return out;
}

}  // namespace orrery
