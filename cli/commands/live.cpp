// `orrery live`: a scenario in real time, as a server or against one.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "base/digest.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command_table.h"
#include "cli/commands/live_endpoint.h"
#include "cli/commands/live_kernels.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/interval_runs.h"
#include "cli/version.h"
#include "live/endpoint_comparison.h"
#include "live/mock_server.h"
#include "live/tape.h"
#include "live/wall_clock.h"
#include "sim/simulation.h"
#include "workloads/workload.h"

namespace orrery {

namespace {

struct LiveOptions {
  std::string scenario, endpoint, trace, out, tape,
      host = "127.0.0.1", clock, executor, api = "completions", prompts = "tokens", model,
      key_variable = "ORRERY_API_KEY", intervals = "auto", ca_file, tokenizer, measured, steps, experiment;
  bool serve = false, update_calibration = false, emulate_host = false, own_all_reduce = false;
  int port = 0, retries = 3;
  std::int64_t seed = -1, profile_steps = 0;
  double timeout_s = 600, stall_s = 60, scrape_s = 1;
};

std::string lateness_text(const Distribution& d) {
  return "mean " + human_seconds(d.mean * 1e-9) + ", p99 " +
         human_seconds(static_cast<double>(d.p99) * 1e-9) + ", largest " +
         human_seconds(static_cast<double>(d.max) * 1e-9);
}

Json lateness_json(const Distribution& d) {
  return {{"mean", d.mean * 1e-6},
          {"p99", static_cast<double>(d.p99) * 1e-6},
          {"max", static_cast<double>(d.max) * 1e-6}};
}

Result<int> serve(const LiveOptions& options, const Scenario& scenario, const CommandContext& context) {
  MockServerOptions server;
  server.host = options.host;
  server.port = static_cast<std::uint16_t>(options.port);
  server.tape = options.tape;
  server.version = version();
  server.stop = [] { return interrupted(); };
  server.on_listening = [&](std::uint16_t port) {
    // Scripts read the port from here.
    const bool bare = options.host.find(':') == std::string::npos;  // else an IPv6 address
    std::printf("listening on http://%s%s%s:%d\n", bare ? "" : "[", options.host.c_str(), bare ? "" : "]",
                static_cast<int>(port));
    std::fflush(stdout);
  };
  ORRERY_TRY(report, serve_scenario(scenario, server));
  const Json json = {{"requests", report.run.completed},
                     {"connections", report.connections},
                     {"bad_requests", report.bad_requests},
                     {"clients_gone", report.gone},
                     {"clients_too_slow", report.slow},
                     {"connections_refused", report.refused_connections},
                     {"loop_lateness_ms", lateness_json(report.loop_lateness)},
                     {"token_lateness_ms", lateness_json(report.token_lateness)},
                     {"steps", report.run.steps},
                     {"digest", digest_text(report.run.digest)}};
  if (context.json) {
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf(
        "served      %llu requests on %llu connections (%llu bad requests, %llu clients gone, %llu too "
        "slow)\n",
        static_cast<unsigned long long>(report.run.completed),
        static_cast<unsigned long long>(report.connections),
        static_cast<unsigned long long>(report.bad_requests), static_cast<unsigned long long>(report.gone),
        static_cast<unsigned long long>(report.slow));
    std::printf("lateness    loop: %s; tokens: %s\n", lateness_text(report.loop_lateness).c_str(),
                lateness_text(report.token_lateness).c_str());
    std::printf("digest      %s\n", digest_text(report.run.digest).c_str());
  }
  return static_cast<int>(ExitCode::done);
}

// Of a run that was broken off: what had been measured, and no comparison.
Error keep_measured(const LiveOptions& options, const EndpointRun& run) {
  if (options.out.empty()) return interruption();
  auto out = AtomicDirectory::create(options.out);
  if (!out.ok()) return out.errors().front();
  Status written = write_file_atomically(out->file("measured.csv"), measured_csv(run));
  if (written.ok()) written = out->commit();
  if (!written.ok()) return written.errors().front();
  return make_error(ErrorKind::interrupted,
                    "interrupted; " + options.out + "/measured.csv has what had been measured");
}

EndpointReportOptions report_of(const LiveOptions& o, const std::string& title) {
  return {.out = o.out,
          .intervals = o.intervals,
          .steps = o.steps,
          .experiment = o.experiment,
          .update_calibration = o.update_calibration,
          .title = title};
}

Result<int> against_endpoint(const LiveOptions& options, const Scenario& scenario,
                             const CommandContext& context) {
  EndpointOptions e;
  ORRERY_TRY(url, parse_endpoint(options.endpoint));
  e.url = url;
  e.chat = options.api == "chat";
  e.text_prompts = e.chat || options.prompts == "text";
  if (!options.tokenizer.empty()) {
    ORRERY_TRY(words, read_prompt_words(options.tokenizer));
    e.words = std::move(words);
    e.text_prompts = true;
  }
  e.model = options.model;
  if (const char* key = std::getenv(options.key_variable.c_str()); key != nullptr) e.api_key = key;
  if (e.api_key.find_first_of("\r\n") != std::string::npos)
    return make_error(ErrorKind::usage, "the key in " + options.key_variable + " holds a line break");
  e.ca_file = options.ca_file;
  e.vocabulary = scenario.pool.instance.model.vocabulary;
  e.concurrency = scenario.workload.closed_loop_concurrency;
  e.seed = scenario.seed;
  e.timeout_s = options.timeout_s;
  e.stall_s = options.stall_s;
  e.retries = options.retries;
  e.scrape_s = options.scrape_s;
  e.keep_going = [](std::uint64_t) { return !interrupted(); };
  ORRERY_TRY(source, open_workload(scenario.workload, scenario.seed));
  ORRERY_TRY(run, run_endpoint(*source, e));
  if (run.interrupted) return keep_measured(options, run);
  return report_endpoint(run, scenario, report_of(options, scenario.file + " against " + url.text()),
                         context);
}

// The loop with a clock that jumps or waits, and the cost model behind it.
Result<int> run_cell(const LiveOptions& options, const Scenario& scenario, const CommandContext& context) {
  const bool waits = options.clock != "virtual";
  std::optional<TapeRecorder> tape;
  if (!options.tape.empty()) {
    ORRERY_TRY(recorder, TapeRecorder::create(options.tape, scenario, version(),
                                              waits ? "wall clock" : "simulation", true));
    tape.emplace(std::move(recorder));
  }
  WallClock clock;
  RunOptions run;
  run.keep_going = [&](std::uint64_t) { return !interrupted(); };
  run.arrange = [&](SimulationSetup& setup) {
    clock.restart();
    clock.watch(interrupted);
    if (waits) setup.clock = &clock;
    if (tape) tape->arrange(setup);
  };
  ORRERY_TRY(result, run_scenario(scenario, run));
  if (interrupted()) return interruption();  // from then on nothing was waited for
  if (tape) ORRERY_TRY_STATUS(tape->finish(result));
  const Json json = {{"requests", result.completed},
                     {"steps", result.steps},
                     {"loop_lateness_ms", waits ? lateness_json(clock.lateness()) : Json(nullptr)},
                     {"digest", digest_text(result.digest)}};
  if (context.json) {
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf("requests    %llu completed, %llu steps\n", static_cast<unsigned long long>(result.completed),
                static_cast<unsigned long long>(result.steps));
    if (waits) std::printf("lateness    %s\n", lateness_text(clock.lateness()).c_str());
    std::printf("digest      %s\n", digest_text(result.digest).c_str());
  }
  return static_cast<int>(ExitCode::done);
}

Status check(const LiveOptions& o) {
  const auto wrong = [](const char* what) { return make_error(ErrorKind::usage, what); };
  if (o.serve && !o.endpoint.empty()) return wrong("--serve is a server and --endpoint its client: take one");
  const bool launches = o.profile_steps > 0;
  if (o.update_calibration && ((o.steps.empty() && !launches) || o.out.empty()))
    return wrong(
        "--update-calibration fits a profile to a server's step log (--measured DIR --steps RUN), or tables "
        "to the launches of our kernels (--profile-steps N); and it needs --out DIR");
  if (o.serve && o.executor == "kernel")
    return wrong(
        "--serve answers with the prediction's times; --executor kernel runs the scenario's workload");
  if (!o.measured.empty() && (o.serve || !o.endpoint.empty()))
    return wrong(
        "--measured is what a run against --endpoint left: take one of --measured, --endpoint, --serve");
  const bool compares = !o.endpoint.empty() || !o.measured.empty();
  if (compares && (!o.clock.empty() || !o.executor.empty() || !o.tape.empty()))
    return wrong(
        "--endpoint is a load generator, and --measured what it left: they have no --clock, --executor or "
        "--tape");
  ORRERY_TRY(runs, interval_runs(o.intervals));  // before a long run, not behind it
  static_cast<void>(runs);
  if (o.serve && o.clock == "virtual") return wrong("--serve: clients live in real time, so --clock is wall");
  if (o.serve && !o.out.empty()) return wrong("--serve writes no --out; --tape FILE records it");
  const bool kernels = !compares && !o.serve && o.executor != "cost-model";
  if (!compares && !kernels && o.intervals != "auto")
    return wrong("--intervals belongs to what is compared: --endpoint, --measured, --executor kernel");
  if (!o.serve && !compares && !kernels && !o.out.empty())
    return wrong(
        "--out belongs to --endpoint and --executor kernel; `orrery simulate --out` has the same run's "
        "outputs");
  if (o.emulate_host && (!kernels || o.clock == "virtual"))
    return wrong(
        "--emulate-host is of --executor kernel in real time: elsewhere host times are the profile's");
  if (launches && !kernels) return wrong("--profile-steps times the launches of --executor kernel");
  if (o.own_all_reduce && !kernels) return wrong("--own-all-reduce is of --executor kernel");
  return ok_status();
}

Result<int> live(const LiveOptions& options, const CommandContext& context) {
  watch_interrupts();
  ORRERY_TRY_STATUS(check(options));
  ORRERY_TRY(scenario, load_scenario(options.scenario, {.overrides = context.overrides,
                                                        .trace = options.trace,
                                                        .seed = options.seed,
                                                        .needs_workload = !options.serve}));
  if (options.serve) return serve(options, scenario, context);
  if (!options.measured.empty())
    return report_measurement(options.measured, scenario,
                              report_of(options, scenario.file + " against " + options.measured), context);
  if (!options.endpoint.empty()) return against_endpoint(options, scenario, context);
  if (options.executor == "cost-model") return run_cell(options, scenario, context);
  return live_on_kernels({.waits = options.clock != "virtual",
                          .emulate_host = options.emulate_host,
                          .own_all_reduce = options.own_all_reduce,
                          .profile_steps = options.profile_steps,
                          .update_calibration = options.update_calibration,
                          .out = options.out,
                          .tape = options.tape,
                          .intervals = options.intervals},
                         scenario, context);
}

}  // namespace

namespace {

void add_endpoint_options(CLI::App& c, LiveOptions& o, CLI::Option* endpoint) {
  const CLI::Range seconds(1e-3, 1e7);
  const std::vector<CLI::Option*> options = {
      c.add_option("--api", o.api, "of --endpoint")->check(CLI::IsMember({"completions", "chat"})),
      c.add_option("--prompts", o.prompts, "of --endpoint: token ids, or text (always, of a chat)")
          ->check(CLI::IsMember({"tokens", "text"})),
      c.add_option(
          "--tokenizer", o.tokenizer,
          "of --endpoint: the model's tokenizer.json; text prompts of exactly the trace's token counts"),
      c.add_option("--model", o.model, "of --endpoint: instead of the first one that it names"),
      c.add_option("--key-variable", o.key_variable, "environment variable that holds the server's key"),
      c.add_option("--ca-file", o.ca_file, "certificates to check an https server against (PEM)"),
      c.add_option("--timeout", o.timeout_s, "seconds for a request, tries and all")->check(seconds),
      c.add_option("--stall", o.stall_s, "seconds without a byte after which a stream is given up")
          ->check(seconds),
      c.add_option("--retries", o.retries, "of a request that was refused before its first byte")
          ->check(CLI::Range(0, 100)),
      c.add_option("--scrape", o.scrape_s, "seconds between looks at /metrics; 0: none")
          ->check(CLI::Range(0.0, 1e7))};
  for (CLI::Option* option : options) option->needs(endpoint);
  options[2]->excludes(options[1]);  // --tokenizer says that prompts are text, and which
}

}  // namespace

void register_live_command(CLI::App& app, CommandContext& context) {
  auto o = std::make_shared<LiveOptions>();
  CLI::App* c =
      app.add_subcommand("live",
                         "a scenario in real time: on our kernels on a GPU, as an OpenAI-compatible server "
                         "whose latencies are the\n"
                         "prediction's, or its workload against a real server; predicted against measured\n"
                         "example: orrery live examples/qwen3-8b-h200.yaml --serve --port 8000");
  c->add_option("scenario", o->scenario, "scenario file (YAML)")->required();
  CLI::Option* const serve = c->add_flag("--serve", o->serve, "be the server; ends with Ctrl-C");
  c->add_option("--host", o->host, "of --serve: the address to listen at")->needs(serve);
  c->add_option("--port", o->port, "of --serve: 0 takes one that is free")
      ->check(CLI::Range(0, 65535))
      ->needs(serve);
  CLI::Option* const endpoint =
      c->add_option("--endpoint", o->endpoint, "URL of a server to measure: http://HOST:PORT");
  c->add_option("--trace", o->trace, "trace file, instead of the scenario's workload")->excludes(serve);
  c->add_option("--seed", o->seed, "instead of the scenario's seed")
      ->check(CLI::Range(std::int64_t{0}, std::numeric_limits<std::int64_t>::max()));
  c->add_option(
      "--out", o->out,
      "of --endpoint, kernels: directory for comparison.json, comparison.html, measured.csv (steps.csv)");
  c->add_option("--tape", o->tape, "records the run for `orrery replay`");
  c->add_option("--clock", o->clock, "virtual jumps, wall waits (default)")
      ->check(CLI::IsMember({"virtual", "wall"}));
  c->add_option("--executor", o->executor,
                "kernel: our kernels on a GPU (default); cost-model: the simulation's")
      ->check(CLI::IsMember({"cost-model", "kernel"}));
  c->add_flag("--emulate-host", o->emulate_host,
              "of kernels in real time: spins for the host times of the scenario's engine");
  c->add_flag(
      "--own-all-reduce", o->own_all_reduce,
      "of kernels with parallel.tp: sums over GPUs by our kernel instead of NCCL, whose the prices are");
  c->add_option("--profile-steps", o->profile_steps,
                "of kernels: times so many steps of the rehearsal launch by launch, beside their prices")
      ->check(CLI::Range(0, 100000));
  add_endpoint_options(*c, *o, endpoint);
  c->add_option("--intervals", o->intervals,
                "of --endpoint, --measured, kernels: off, auto (16 paired runs) or a number of runs");
  CLI::Option* const measured =
      c->add_option("--measured", o->measured, "folder that --endpoint --out wrote: compares it once more");
  CLI::Option* const steps =
      c->add_option("--steps", o->steps,
                    "of --measured: run folder of the server's step log (docs/step_log.md)")
          ->needs(measured);
  c->add_option("--experiment", o->experiment,
                "of --steps: which of its loads, where its requests do not say it")
      ->needs(steps);
  c->add_flag("--update-calibration", o->update_calibration,
              "of --steps: an engine profile from the log in --out, if it makes held-out steps better; of "
              "--profile-steps: tables, likewise");
  c->callback([&context, o] {
    context.action = [&context, o] {
      const Result<int> code = live(*o, context);
      return code.ok() ? *code : report_errors(code.errors());
    };
  });
}

}  // namespace orrery
