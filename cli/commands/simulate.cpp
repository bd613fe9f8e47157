// `orrery simulate`: replays a workload against a deployment and writes the prediction.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>

#include "base/text.h"
#include "cli/command_table.h"
#include "cli/commands/energy_output.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/interval_runs.h"
#include "cli/version.h"
#include "costmodel/draft_tree.h"
#include "live/tape.h"
#include "reports/run_outputs.h"
#include "reports/summary.h"
#include "sim/costed/disaggregation.h"
#include "sim/costed/run.h"
#include "sim/ensemble/capacity.h"
#include "sim/ensemble/ensemble.h"
#include "sim/ensemble/find_rate.h"

namespace orrery {

namespace {

struct SimulateOptions {
  std::string scenario, trace, out, outputs = "requests", intervals = "auto", tape, window;
  bool itl = false, find_rate = false, steps_csv = false, report = true, energy = false;
  std::int64_t seed = -1;
};

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double peak_rss_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024e-6;
}

std::string where_of(const PoolSpec& pool) {
  const InstanceSpec& i = pool.instance;
  const std::int32_t dcp = i.engine.settings.context.cache_ranks;  // as vLLM abbreviates it
  return std::to_string(pool.replicas) + " x " + std::to_string(i.plan.gpus() * i.engines) + " " +
         i.hardware.name + ", " + i.engine.name + ", tp " + std::to_string(i.plan.tp) +
         (i.plan.pp > 1 ? ", pp " + std::to_string(i.plan.pp) : "") +
         (i.plan.dp * i.engines > 1 ? ", dp " + std::to_string(i.plan.dp * i.engines) : "") +
         (i.plan.cp > 1 ? ", cp " + std::to_string(i.plan.cp) : "") +
         (dcp > 1 ? ", dcp " + std::to_string(dcp) : "") +
         (i.plan.ep > 1 ? ", ep " + std::to_string(i.plan.ep) : "");
}

std::string title_of(const Scenario& s) {
  const ModelSpec& m = s.pool.instance.model;
  if (s.other_pools.empty()) return m.name + " (" + to_string(m.quantization) + ") on " + where_of(s.pool);
  std::string title = m.name;
  for (const PoolSpec* pool : s.pools()) {
    title += std::string(pool == &s.pool ? ": " : "; ") + pool->name + " (" + to_string(pool->role) + ", " +
             to_string(pool->instance.model.quantization) + ") on " + where_of(*pool);
  }
  return title;
}

// Of all GPUs together; 0 unless every pool's part has a price.
double usd_per_hour(const Scenario& s) {
  double sum = 0;
  for (const PoolSpec* pool : s.pools()) {
    const auto& price = pool->instance.hardware.price;
    if (!price) return 0;
    sum += price->value.value() * static_cast<double>(pool->gpus());
  }
  return sum;
}

Result<RunOutputs> open_outputs(const SimulateOptions& options, const Scenario& scenario) {
  if (options.out.empty()) return RunOutputs();
  return RunOutputs::create(options.out, {.level = options.outputs,
                                          .itl = options.itl,
                                          .steps_csv = options.steps_csv,
                                          .handoffs = is_disaggregated(scenario.pools()),
                                          .trace_window = options.window});
}

SummaryInput summary_of(const Scenario& scenario, const RunResult& run, double wall_s) {
  SummaryInput summary;
  for (const PoolSpec* pool : scenario.pools()) {
    const SpeculationSpec& s = pool->instance.speculation;
    if (!s.on()) continue;
    summary.speculation = to_string(s.method);
    summary.speculation_tokens = s.tokens;
    if (s.tree != nullptr) {
      const bool drawn = s.log.empty();
      summary.speculation_tree = {s.branches, s.verified, drawn ? s.tree->expected_accepted() : 0,
                                  s.siblings_assumed};
    }
    if (pool->role != PoolRole::prefill) break;  // which verifies nothing
  }
  summary.run = &run;
  summary.gpus = scenario.gpus();
  // One pool: the figure as given, not what multiplying and dividing makes of it.
  if (const auto& price = scenario.pool.instance.hardware.price; price && scenario.other_pools.empty())
    summary.usd_per_gpu_hour = price->value.value();
  else
    summary.usd_per_gpu_hour = usd_per_hour(scenario) / static_cast<double>(summary.gpus);
  summary.provenance = run.price_sources;
  summary.what_if = scenario.is_what_if;
  summary.slo_percentile = scenario.slo.percentile;
  summary.seed = scenario.seed;
  summary.version = version();
  summary.wall_s = wall_s;
  summary.peak_rss_mb = peak_rss_mb();
  return summary;
}

void print_summary(const SimulateOptions& options, const SummaryInput& summary, const std::string& title,
                   const CommandContext& context) {
  if (context.json) {
    std::fputs(canonical_json(summary_json(summary)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(summary_text(summary, title).c_str(), stdout);
    if (!options.out.empty()) std::printf("outputs     %s\n", options.out.c_str());
  }
}

// How many requests will come; 0 when only the trace knows.
std::uint64_t expected_requests(const WorkloadSpec& workload) {
  const std::uint64_t generated = workload.generator ? workload.generator->requests : 0;
  if (workload.limit_duration_s > 0) return 0;
  if (generated == 0 || workload.limit_requests == 0) return std::max(generated, workload.limit_requests);
  return std::min(generated, workload.limit_requests);
}

Result<RunResult> run_nominal(const Scenario& scenario, const SimulateOptions& options, RunOutputs& outputs,
                              EnergyMeter* energy, const CommandContext& context) {
  std::optional<TapeRecorder> tape;
  if (!options.tape.empty()) {
    ORRERY_TRY(recorder, TapeRecorder::create(options.tape, scenario, version(), "simulation", true));
    tape.emplace(std::move(recorder));
  }
  // Its line is gone from the terminal before a summary is printed.
  Progress progress("simulating", expected_requests(scenario.workload), !context.quiet);
  RunOptions run_options;
  run_options.sink = outputs.sink();
  run_options.observer = outputs.observer();
  run_options.energy = energy;
  run_options.per_request_itl = options.itl;
  run_options.keep_going = [&](std::uint64_t done) {
    progress.update(done);
    return !interrupted();
  };
  if (tape) run_options.arrange = [&](SimulationSetup& setup) { tape->arrange(setup); };
  ORRERY_TRY(run, run_scenario(scenario, run_options));
  if (tape) ORRERY_TRY_STATUS(tape->finish(run));
  return run;
}

// What goes beyond the nominal run.
struct Extras {
  Intervals intervals;
  RateSearch search;
  bool has_intervals = false, has_search = false, cut_off = false;
};

// The nominal run is whole by now, so an interruption costs its error bars or its search, not the run.
Result<Extras> run_extras(const Scenario& scenario, const RunResult& run, const SimulateOptions& options,
                          int runs, const CommandContext& context) {
  Extras extras;
  const auto keep_going = [](std::uint64_t) { return !interrupted(); };
  if (runs > 0) {
    say(LogLevel::info, "error bars from " + std::to_string(runs) + " runs");
    auto estimated = estimate_intervals(
        scenario, EnsembleOptions{.runs = runs, .threads = context.threads, .keep_going = keep_going});
    if (!estimated.ok() && !interrupted()) return estimated.errors();
    extras.has_intervals = estimated.ok();
    if (estimated.ok()) extras.intervals = std::move(estimated).value();
    ORRERY_TRY(corrections, shipped_interval_corrections());
    correct_intervals(extras.intervals, corrections, evidence_of(scenario, run.price_sources));
    if (extras.has_intervals) add_capacity(scenario, corrections.capacity, extras.intervals);
  }
  if (options.find_rate && !interrupted()) {
    say(LogLevel::info, "searching for the highest rate");
    auto found = find_rate(scenario, keep_going);
    if (!found.ok() && !interrupted()) return found.errors();
    extras.has_search = found.ok();
    if (found.ok()) extras.search = std::move(found).value();
  }
  extras.cut_off = interrupted();
  return extras;
}

Result<Scenario> open_scenario(const SimulateOptions& options, const CommandContext& context) {
  ORRERY_TRY(scenario,
             load_scenario(options.scenario,
                           {.overrides = context.overrides, .trace = options.trace, .seed = options.seed}));
  std::string tokens;
  for (const PoolSpec* pool : scenario.pools())
    tokens += ", " + human_count(static_cast<double>(pool->memory.kv_tokens()));
  say(LogLevel::info, options.scenario + ": " + title_of(scenario) + tokens + " KV tokens an instance");
  for (const PoolSpec* pool : scenario.pools()) {
    const EngineProfile& engine = pool->instance.engine;
    if (engine.static_batches)
      say(LogLevel::warning, "engine profile " + engine.name +
                                 " is for static batches only: nobody has compared it where requests arrive "
                                 "while others run");
    for (const std::string& name : engine.ignored_args)
      say(LogLevel::debug, "engine argument " + name + " changes no prediction");
  }
  return scenario;
}

// Error bars, the search and the window of a long trace.json are further runs over the same requests.
Status check_can_be_read_again(const Scenario& scenario, const SimulateOptions& options, int runs) {
  std::error_code ec;
  const std::string& trace = scenario.workload.trace;
  const bool again = runs > 0 || options.find_rate || options.outputs == "all";
  if (!again || trace.empty() || !std::filesystem::is_fifo(trace, ec)) return ok_status();
  return invalid_input(
      "is a pipe, which can be read once; error bars, --find-rate and --outputs all read the trace again: "
      "save it to a file, or take --intervals off",
      {trace, 0, 0});
}

Result<int> simulate(const SimulateOptions& options, const CommandContext& context) {
  watch_interrupts();
  ORRERY_TRY(runs, interval_runs(options.intervals));
  ORRERY_TRY(scenario, open_scenario(options, context));
  ORRERY_TRY_STATUS(check_can_be_read_again(scenario, options, runs));
  std::optional<EnergyMeter> energy;
  if (options.energy) {
    ORRERY_TRY(meter, EnergyMeter::create(scenario));
    energy.emplace(std::move(meter));
  }
  const double begin = seconds_now();
  ORRERY_TRY(outputs, open_outputs(options, scenario));
  ORRERY_TRY(run, run_nominal(scenario, options, outputs, energy ? &*energy : nullptr, context));
  SummaryInput summary = summary_of(scenario, run, seconds_now() - begin);
  if (energy) {
    summary.energy = energy_json(energy->result(run));
    summary.energy_text = energy_text(energy->result(run));
  }
  say(LogLevel::info,
      human_count(static_cast<double>(run.steps)) + " steps simulated in " + human_seconds(summary.wall_s));
  ORRERY_TRY(extras, run_extras(scenario, run, options, runs, context));
  if (extras.has_intervals) summary.intervals = &extras.intervals;
  if (extras.has_search) summary.rate_search = &extras.search;
  const std::string title = title_of(scenario);
  if (!options.out.empty()) {
    // Once interrupted, what is kept is written out; a second signal ends the process at once.
    const auto keep_going = [&](std::uint64_t) { return extras.cut_off || !interrupted(); };
    ORRERY_TRY(warnings, outputs.finish(scenario, summary, title, context.command_line, keep_going));
    for (const std::string& warning : warnings) say(LogLevel::warning, warning);
    say(LogLevel::info, "wrote " + options.out);
  }
  print_summary(options, summary, title, context);
  if (extras.cut_off) {
    return make_error(ErrorKind::interrupted,
                      "interrupted: the run is whole, its error bars or the search for the rate are missing");
  }
  return static_cast<int>(options.find_rate && !extras.search.found ? ExitCode::no_deployment
                                                                    : ExitCode::done);
}

}  // namespace

void register_simulate_command(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* c = app.add_subcommand("simulate",
                                   "replays a workload against a deployment and writes the prediction\n"
                                   "example: orrery simulate examples/qwen3-8b-h200.yaml --out out/demo");
  c->add_option("scenario", options->scenario, "scenario file (YAML)")->required();
  c->add_option("--trace", options->trace, "trace file, instead of the scenario's workload");
  c->add_option("--out", options->out,
                "directory for requests.csv, summary.json, report.html, trace.json, …");
  c->add_option(
       "--outputs", options->outputs,
       "summary: summary.json only; requests: also requests.csv and report.html; all: also trace.json")
      ->check(CLI::IsMember({"summary", "requests", "all"}));
  c->add_flag("--itl", options->itl, "per-request inter-token percentiles in requests.csv");
  c->add_flag("--steps-csv", options->steps_csv, "steps.csv: one engine step (or stretch) a row");
  c->add_option("--intervals", options->intervals, "off, auto (16 paired runs) or a number of runs");
  c->add_flag("--find-rate", options->find_rate, "the highest rate that meets the SLO");
  c->add_flag("--energy", options->energy, "what the GPUs' boards draw (docs/energy.md)");
  c->add_option("--seed", options->seed, "instead of the scenario's seed")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()));
  c->add_option("--tape", options->tape, "records the run for `orrery replay`");
  c->add_option("--trace-window", options->window, "A:B, seconds of simulated time that trace.json covers");
  c->callback([&context, options] {
    context.action = [&context, options] {
      const Result<int> code = simulate(*options, context);
      return code.ok() ? *code : report_errors(code.errors());
    };
  });
}

}  // namespace orrery
