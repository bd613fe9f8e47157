// `orrery calibrate`: times this machine's kernels, most valuable points first, and makes tables of them.
#include "cli/commands/calibrate.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/files.h"
#include "base/text.h"
#include "calibrate/again.h"
#include "calibrate/bound.h"
#include "calibrate/duration.h"
#include "calibrate/hardware_of.h"
#include "calibrate/plan.h"
#include "calibrate/probes.h"
#include "calibrate/session.h"
#include "calibrate/tables.h"
#include "cli/command_table.h"
#include "cli/interrupt.h"
#include "cli/version.h"
#include "kernels/case_table.h"

namespace orrery {

namespace fs = std::filesystem;
using namespace calibrate;

namespace {

constexpr const char* journal_name = "journal.jsonl";

Result<HardwareProfile> profile_for(const CalibrateOptions& options, const std::string& device_name) {
  if (!options.hardware.empty()) return load_hardware(options.hardware);
  ORRERY_TRY(name, hardware_of(device_name));
  return load_hardware(name);
}

PlanOptions plan_options(const CalibrateOptions& options, std::size_t memory_bytes) {
  PlanOptions plan;
  plan.demand.models = options.models;
  plan.demand.between = options.between;
  plan.demand.memory_bytes = memory_bytes;
  plan.ops = options.ops;
  plan.max_points = options.max_points;
  return plan;
}

// The journal to write to, and what it already holds.
struct OpenJournal {
  JournalWriter writer;
  std::set<std::string> done;
};

Result<OpenJournal> open_journal(const CalibrateOptions& options, const JournalHeader& header, double now) {
  const std::string path = options.out + "/" + journal_name;
  std::error_code ec;
  fs::create_directories(options.out, ec);
  if (ec) return invalid_input("cannot be created: " + ec.message(), {options.out, 0, 0});
  if (!options.resume || !fs::exists(path, ec)) {
    ORRERY_TRY(writer, JournalWriter::create(path, header));
    return OpenJournal{std::move(writer), {}};
  }
  std::uint64_t used = 0;
  ORRERY_TRY(journal, read_journal(path, &used));
  const std::string why = mismatch(journal.header, header, options.any_card);
  if (!why.empty()) return invalid_input(why, {path, 1, 0});
  ORRERY_TRY(writer, JournalWriter::append(path, used));
  const std::string text = "on card " + header.device.uuid + ", budget " + header.budget;
  ORRERY_TRY_STATUS(writer.add(JournalEvent{"resumed", text, 0}, now));
  return OpenJournal{std::move(writer), finished_keys(journal)};
}

std::string tables_directory(const CalibrateOptions& options, const JournalHeader& header) {
  const std::string root = options.tables.empty() ? options.out + "/tables" : options.tables;
  return root + "/" + header.hardware + "/" + header.kernels;
}

std::string session_text(const SessionSummary& s, const std::string& tables) {
  std::string text;
  std::size_t measured = 0;
  for (const auto& [state, count] : s.states) {
    if (state != "unsupported") measured += count;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + state;
  }
  text = std::to_string(s.planned) + " points planned, " + std::to_string(s.skipped) +
         " already in the journal, " + std::to_string(measured) + " measured in " + human_seconds(s.seconds) +
         (text.empty() ? "" : " (" + text + ")") + "\n";
  for (const auto& [reason, count] : s.unsupported)
    text += "  " + std::to_string(count) + " × " + reason + "\n";
  text += "sentinel drift: " + format_fixed(100 * s.drift, 2) + " %\n";
  if (s.out_of_time) text += "stopped by the budget; --resume goes on\n";
  if (s.interrupted) text += "interrupted; --resume goes on\n";
  return text + "tables: " + tables + "\n";
}

Json session_json(const SessionSummary& s, const std::string& tables) {
  Json states = Json::object(), unsupported = Json::object();
  for (const auto& [state, count] : s.states) states[state] = count;
  for (const auto& [reason, count] : s.unsupported) unsupported[reason] = count;
  return {{"planned", s.planned}, {"skipped", s.skipped},         {"states", states},
          {"drift", s.drift},     {"out_of_time", s.out_of_time}, {"interrupted", s.interrupted},
          {"seconds", s.seconds}, {"unsupported", unsupported},   {"tables", tables}};
}

Result<SessionSummary> measure_plan(const CalibrateOptions& options, const CommandContext& context,
                                    double deadline, WallTimer& timer, kernels::Device& device,
                                    const JournalHeader& header) {
  ORRERY_TRY(profile, load_hardware(header.hardware));
  ORRERY_TRY(points, options.again.empty()
                         ? plan_points(profile, plan_options(options, device.info().memory_bytes))
                         : points_again(options.again, options.ops));
  ORRERY_TRY(journal, open_journal(options, header, timer.seconds()));
  Progress progress("calibrating", points.size(), !context.quiet);
  SessionOptions session;
  session.deadline = deadline;
  session.measure.least_us = [&profile](const kernels::CaseSpec& spec) {
    const auto least = least_us(spec, profile);
    return least.ok() ? *least : 0;
  };
  session.probe = run_probe;
  session.interrupted = [] { return interrupted(); };
  session.progress = [&](std::size_t done, std::size_t) { progress.update(done); };
  session.say = [](const std::string& text) { std::fprintf(stderr, "orrery: %s\n", text.c_str()); };
  return run_session(points, journal.done, device, timer, kernels::make_case, journal.writer, session);
}

Result<JournalHeader> make_header(const CalibrateOptions& options, WallTimer& timer,
                                  kernels::Device& device) {
  ORRERY_TRY(profile, profile_for(options, device.info().name));
  JournalHeader header;
  header.hardware = profile.name;
  header.date = timer.date();
  header.version = version();
  header.budget = options.budget.empty() ? "none" : options.budget;
  header.device = device.info();
  header.libraries = device.libraries();
  return header;
}

}  // namespace

Result<std::unique_ptr<kernels::Device>> open_device(int index) {
  std::string why;
  auto all = kernels::devices(why);
  if (all.empty()) return make_error(ErrorKind::unavailable, "no GPU can be used: " + why);
  if (index < 0 || static_cast<std::size_t>(index) >= all.size()) {
    return make_error(ErrorKind::unavailable,
                      "there is no device " + std::to_string(index) + "; " + std::to_string(all.size()) +
                          " can be used, counted from 0",
                      {}, "--device");
  }
  return std::move(all[static_cast<std::size_t>(index)]);
}

int print_plan(const CalibrateOptions& options) {
  if (options.hardware.empty())
    return report_errors({make_error(ErrorKind::usage, "--plan needs --hardware NAME", {}, "--plan")});
  auto profile = load_hardware(options.hardware);
  if (!profile.ok()) return report_errors(profile.errors());
  const auto memory = static_cast<std::size_t>(profile->memory_total.value.value());
  auto points = plan_points(*profile, plan_options(options, memory));
  if (!points.ok()) return report_errors(points.errors());
  std::printf("round;share;table;shape\n");
  for (const Point& p : *points)
    std::printf("%d;%.6f;%s;%s\n", p.round, p.share, p.table.c_str(), p.shape.c_str());
  return static_cast<int>(ExitCode::done);
}

int run_calibration(const CalibrateOptions& options, const CommandContext& context) {
  WallTimer timer;
  double deadline = std::numeric_limits<double>::infinity();
  if (!options.budget.empty()) {
    auto budget = parse_duration(options.budget);
    if (!budget.ok()) return report_errors(budget.errors());
    deadline = timer.seconds() - process_age() + *budget;
  }
  auto device = open_device(options.device);
  if (!device.ok()) return report_errors(device.errors());
  watch_interrupts();
  auto header = make_header(options, timer, **device);
  if (!header.ok()) return report_errors(header.errors());
  auto summary = measure_plan(options, context, deadline, timer, **device, *header);
  // What was found before a device was lost is worth tables too.
  const bool begun = summary.ok() || summary.errors().front().kind == ErrorKind::unavailable;
  const std::string tables = tables_directory(options, *header);
  if (begun) {
    auto journal = read_journal(options.out + "/" + journal_name);
    if (!journal.ok()) return report_errors(journal.errors());
    const Status written = write_tables(*journal, tables);
    if (!written.ok()) return report_errors(written.errors());
  }
  if (!summary.ok()) return report_errors(summary.errors());
  if (context.json)
    std::fputs(canonical_json(session_json(*summary, tables)).c_str(), stdout);
  else if (!context.quiet)
    std::fputs(session_text(*summary, tables).c_str(), stdout);
  return static_cast<int>(summary->interrupted ? ExitCode::interrupted : ExitCode::done);
}

namespace {

int calibrate_action(const CalibrateOptions& options, const CommandContext& context) {
  if (!options.from_steps.empty()) return fit_from_steps(options, context);
  if (options.pairs) return run_pairs(options);
  if (options.tune) return run_tuning(options, context);
  if (options.plan) return print_plan(options);
  if (options.check || options.simulator) return run_kernel_checks(options, context);
  if (!options.pack.empty()) return pack_calibration(options, context);
  return run_calibration(options, context);
}

}  // namespace

void register_calibrate_command(CLI::App& app, CommandContext& context) {
  auto o = std::make_shared<CalibrateOptions>();
  CLI::App* c =
      app.add_subcommand("calibrate",
                         "times this machine's kernels, most valuable points first, into tables\n"
                         "example: orrery calibrate --budget 8m --out out/calibration\n"
                         "         orrery calibrate --check --out out/check\n"
                         "         orrery calibrate --from-steps RUN --scenario s.yaml --out out/fit");
  c->add_option("--device", o->device, "which GPU, from 0, in the driver's order");
  c->add_option("--ops", o->ops, "operators, tables or table/format (gemm/fp8-block), separated by commas")
      ->delimiter(',');
  c->add_option("--models", o->models, "plan for these models only, separated by commas")->delimiter(',');
  c->add_option("--budget", o->budget, "stop in time, process start included: 90s, 8m, 1h");
  c->add_option("--max-points", o->max_points, "only the first N points of the plan");
  c->add_option("--out", o->out, "directory of the journal, the tables and the check's log");
  c->add_option("--tables", o->tables,
                "where tables go, below it <hardware>/<kernels> (default: OUT/tables)");
  c->add_option("--hardware", o->hardware, "profile of the device, when its name is not known");
  c->add_flag("--resume", o->resume, "go on with the journal in --out");
  c->add_flag("--between", o->between,
              "points between those of the plan: to test the tables on what they were not made from");
  c->add_flag("--any-card", o->any_card, "with --resume: another card of the same name and driver will do");
  c->add_flag("--plan", o->plan, "print the plan of --hardware and measure nothing");
  c->add_flag("--check", o->check, "compare every kernel with its reference over adversarial shapes");
  c->add_option("--child-timeout", o->child_timeout,
                "with --check: seconds that an operator's process may take; 0 = all in this process")
      ->check(CLI::NonNegativeNumber);
  c->add_option("--part", o->part, "with --check: write outcomes to this file")->group("");
  c->add_flag("--simulator", o->simulator, "check in the CPU simulator what runs there; needs no GPU");
  CLI::Option* tune = c->add_flag(
      "--tune", o->tune,
      "search the tiles of the FP8 block products; with --simulator by the tile law, without a GPU");
  c->add_option("--export", o->export_to,
                "with --tune: `vllm DIR` writes the tiles in the layout of its fused-MoE files")
      ->expected(2)
      ->needs(tune);
  c->add_flag("--pairs", o->pairs,
              "time both sides of the case studies' kernel pairs (reports/cases/pairs.yaml)");
  c->add_option(
      "--again", o->again,
      "time the rows of products in this folder of tables again, those of --ops, instead of a plan");
  c->add_option("--from-steps", o->from_steps,
                "fits host costs and operator factors to an engine's step log (a run folder)");
  c->add_option("--scenario", o->scenario, "with --from-steps: the scenario of what was logged");
  c->add_option("--leave-out", o->leave_out,
                "with --from-steps: experiments not to look at, separated by commas")
      ->delimiter(',');
  c->add_option("--pack", o->pack, "pack the tables, journal and check in --out into one file to send");
  c->callback([&context, o] { context.action = [&context, o] { return calibrate_action(*o, context); }; });
}

}  // namespace orrery
