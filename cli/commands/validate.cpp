// `orrery validate`: what the simulation makes of runs that a real engine logged.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/files.h"
#include "cli/command_table.h"
#include "cli/commands/benchmark.h"
#include "cli/commands/validate_board.h"
#include "cli/commands/validate_cases.h"
#include "cli/commands/validate_published.h"
#include "reports/casebook/engine_fidelity.h"
#include "reports/casebook/schedule_replay.h"
#include "reports/casebook/score_rows.h"
#include "reports/casebook/scoreboard.h"

namespace orrery {

namespace {

struct ValidateOptions {
  std::string schedule, out, benchmark;
  std::vector<std::string> names;  // cases; with --benchmark the scenario
  BenchmarkFileOptions benchmark_file;
  PublishedCommandOptions published;
  bool engines = false, fast = false, fit_intervals = false;
};

std::string published_sections(const std::vector<CaseComparison>& cases) {
  return "## Published runs\n\nMeasured by others, cited in `reports/cases/published`, not measured by us "
         "and "
         "used for no fit. Each was predicted\nfrom what its source says and the assumptions below it "
         "(docs/validation.md); where a source is silent, the\nassumption decides as much as the model.\n\n" +
         scoreboard_sections(cases, "##");
}

Status write_fidelity(const EngineFidelity& f, const std::vector<CaseComparison>& published,
                      const std::string& folder) {
  ORRERY_TRY_STATUS(write_file_atomically(folder + "/published_cases.csv", scoreboard_csv(published)));
  ORRERY_TRY_STATUS(write_file_atomically(folder + "/engine_fidelity.md", fidelity_markdown(f)));
  ORRERY_TRY_STATUS(
      write_file_atomically(folder + "/engine_fidelity.json", canonical_json(fidelity_json(f))));
  return write_file_atomically(folder + "/engine_fidelity.csv", fidelity_csv(f));
}

int validate_engines(const ValidateOptions& options, const CommandContext& context) {
  auto fidelity = measure_engine_fidelity([&](const std::string& what) {
    if (!context.quiet && isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "orrery: %s\n", what.c_str());
  });
  if (!fidelity.ok()) return report_errors(fidelity.errors());
  auto published = compare_published_cases(options.fast, context);
  if (!published.ok()) return report_errors(published.errors());
  const auto corrections = shipped_interval_corrections();
  if (!corrections.ok()) return report_errors(corrections.errors());
  correct_intervals(*published, *corrections);
  fidelity->published = published_sections(*published);
  fidelity->published_data = scoreboard_json(*published);
  std::error_code ec;
  std::string folder = options.out;
  // As with the board: what lacks intervals does not take the place of the committed report.
  if (folder.empty() && !options.fast && std::filesystem::is_directory("reports/results", ec))
    folder = "reports/results";
  if (!folder.empty()) {
    std::filesystem::create_directories(folder, ec);
    const Status written = write_fidelity(*fidelity, *published, folder);
    if (!written.ok()) return report_errors(written.errors());
  }
  if (context.json) {
    std::fputs(canonical_json(fidelity_json(*fidelity)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs((fidelity_text(*fidelity) + scoreboard_summary(*published)).c_str(), stdout);
    if (!folder.empty()) std::printf("written: %s/engine_fidelity.md\n", folder.c_str());
  }
  return static_cast<int>(fidelity->failures.empty() ? ExitCode::done : ExitCode::check_failed);
}

int validate(const ValidateOptions& options, const CommandContext& context) {
  const bool published = !options.published.file.empty();
  const int forms = options.engines + !options.schedule.empty() + !options.benchmark.empty() + published;
  if (forms > 1)
    return report_errors({make_error(
        ErrorKind::usage, "--engines, --schedule, --benchmark and --published exclude each other")});
  if ((options.engines || !options.schedule.empty() || published) && !options.names.empty())
    return report_errors(
        {make_error(ErrorKind::usage, "cases are named without --engines, --schedule and --published")});
  if (!published && (options.published.bars || !options.published.rules.empty()))
    return report_errors({make_error(ErrorKind::usage, "--bars and --rules need --published")});
  if (options.fit_intervals && (forms > (published ? 1 : 0) || !options.names.empty() ||
                                options.published.bars || !options.published.rules.empty()))
    return report_errors(
        {make_error(ErrorKind::usage, "--fit-intervals takes --published, --out and no more")});
  if (options.fit_intervals || (forms == 0 && options.names.empty())) {
    const auto code =
        validate_board({options.out, options.published.file, options.fast, options.fit_intervals}, context);
    return code.ok() ? *code : report_errors(code.errors());
  }
  if (published) {
    PublishedCommandOptions pricing = options.published;
    pricing.out = options.out;
    pricing.fast = options.fast;
    const auto code = validate_published(pricing, context);
    return code.ok() ? *code : report_errors(code.errors());
  }
  if (options.engines) return validate_engines(options, context);
  if (!options.benchmark.empty()) {
    if (options.names.size() > 1)
      return report_errors({make_error(ErrorKind::usage, "--benchmark FILE takes one scenario")});
    const auto code =
        validate_benchmark(options.benchmark, options.names.empty() ? "" : options.names.front(),
                           options.benchmark_file, options.out, context);
    return code.ok() ? *code : report_errors(code.errors());
  }
  if (options.schedule.empty()) {
    const auto code = validate_cases({options.names, options.out, options.fast}, context);
    return code.ok() ? *code : report_errors(code.errors());
  }
  auto run = load_measured_run(options.schedule);
  if (!run.ok()) return report_errors(run.errors());
  const ScheduleReplay replay = replay_schedule(*run);
  if (!options.out.empty()) {
    auto folder = AtomicDirectory::create(options.out);
    if (!folder.ok()) return report_errors(folder.errors());
    Status written =
        write_file_atomically(folder->file("schedule.json"), canonical_json(schedule_replay_json(replay)));
    if (written.ok()) written = folder->commit();
    if (!written.ok()) return report_errors(written.errors());
  }
  if (context.json) {
    std::fputs(canonical_json(schedule_replay_json(replay)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(schedule_replay_text(replay).c_str(), stdout);
  }
  return static_cast<int>(replay.identical == replay.steps ? ExitCode::done : ExitCode::check_failed);
}

}  // namespace

void register_validate_command(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<ValidateOptions>();
  CLI::App* c = app.add_subcommand(
      "validate",
      "predicts validation cases and sets what was measured beside it; replays a real engine's log "
      "through our scheduler, step by step; or does the same with a benchmark's figures\n"
      "example: orrery validate\n"
      "example: orrery validate residency-vllm-h100 --out out/cases\n"
      "example: orrery validate --schedule RUN --out out/schedule\n"
      "example: orrery validate --benchmark result.json examples/qwen3-8b-h200.yaml\n"
      "example: orrery validate --published figures.csv --out out/published");
  c->add_option("--schedule", options->schedule,
                "folder with engine.json, experiments, requests and steps of a run");
  c->add_option("--benchmark", options->benchmark,
                "result of vllm bench serve or sglang.bench_serving, measured on SCENARIO's deployment");
  c->add_option(
      "case", options->names,
      "names of cases (orrery list cases), or case files; none: all of them, runs of ours and published rows "
      "on one board. With "
      "--benchmark: the scenario file; its workload is not used");
  add_benchmark_options(*c, options->benchmark_file);
  c->add_flag(
      "--engines", options->engines,
      "compare with all measured engine runs: schedules, step times, errors and where they come from");
  c->add_option(
      "--published", options->published.file,
      "CSV of published figures (docs/validation.md): every row is priced, or left out by a named rule");
  c->add_option("--rules", options->published.rules,
                "with --published: import rules of one's own instead of reports/cases/import_rules.yaml");
  c->add_flag("--bars", options->published.bars, "with --published: exit code 7 when a target is missed");
  c->add_flag(
      "--fit-intervals", options->fit_intervals,
      "writes reports/cases/interval_corrections.yaml anew from the named cases and the published rows; "
      "with --out an interrupted run goes on where it stood");
  c->add_flag("--fast", options->fast, "without intervals: one run of each in place of many");
  c->add_option("--out", options->out,
                "directory for scoreboard.{json,csv,md,html} (with --fast only where it is given), "
                "schedule.json, comparison.json and trace.jsonl, or "
                "engine_fidelity.{md,json,csv} and published_cases.csv");
  c->callback(
      [&context, options] { context.action = [&context, options] { return validate(*options, context); }; });
}

}  // namespace orrery
