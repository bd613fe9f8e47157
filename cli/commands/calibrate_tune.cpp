// `orrery calibrate --tune`: searches the tiles of the FP8 block products, on a device or, with --simulator,
// by the tile law; writes both times, and files that vLLM reads.
#include <cstdio>
#include <filesystem>
#include <limits>

#include "base/files.h"
#include "base/text.h"
#include "calibrate/bound.h"
#include "calibrate/duration.h"
#include "calibrate/hardware_of.h"
#include "calibrate/tables.h"
#include "calibrate/tune.h"
#include "calibrate/tune_timers.h"
#include "cli/command_table.h"
#include "cli/commands/calibrate.h"
#include "cli/interrupt.h"
#include "cli/version.h"
#include "kernels/block_gemm.h"
#include "kernels/case_table.h"

namespace orrery {

namespace fs = std::filesystem;
using namespace calibrate;

namespace {

constexpr const char* journal_name = "tune.jsonl";

// Who times, on which part.
struct TuneMachine {
  JournalHeader header;
  HardwareProfile part;
  std::unique_ptr<kernels::Device> device;  // null: the law
  std::unique_ptr<DeviceTiles> measured;
  std::unique_ptr<LawTiles> law;

  TileTimer& timer() { return law ? static_cast<TileTimer&>(*law) : *measured; }
  void fill(TuneSession& session) {
    session.limits = law ? law->limits() : measured->limits();
    session.space = [this](const TileProblem& p) { return law ? law->space(p) : measured->space(p); };
    session.own = [this](const TileProblem& p) { return law ? law->own(p) : measured->own(p); };
  }
};

Result<TuneMachine> law_machine(const CalibrateOptions& options, Timer& timer) {
  if (options.hardware.empty())
    return make_error(ErrorKind::usage, "--tune --simulator needs --hardware NAME", {}, "--simulator");
  TuneMachine machine;
  ORRERY_TRY(part, load_hardware(options.hardware));
  ORRERY_TRY(law, LawTiles::create(part));
  machine.part = std::move(part);
  machine.law = std::make_unique<LawTiles>(std::move(law));
  machine.header.hardware = machine.part.name;
  machine.header.kernels = "tile-law";
  machine.header.date = timer.date();
  machine.header.version = version();
  machine.header.device.name = machine.part.name;
  return machine;
}

Result<TuneMachine> device_machine(const CalibrateOptions& options, Timer& timer) {
  TuneMachine machine;
  ORRERY_TRY(device, open_device(options.device));
  machine.device = std::move(device);
  if (kernels::block_gemm_tiles().empty() || machine.device->info().architecture != "sm_90a") {
    return make_error(ErrorKind::unavailable,
                      machine.device->info().name +
                          " has no kernel of ours with tiles to search (block_gemm_wgmma is Hopper's); "
                          "--simulator --hardware NAME prices vLLM's by the tile law");
  }
  ORRERY_TRY(name, options.hardware.empty() ? hardware_of(machine.device->info().name)
                                            : Result<std::string>(options.hardware));
  ORRERY_TRY(part, load_hardware(name));
  machine.part = std::move(part);
  machine.header.hardware = machine.part.name;
  machine.header.date = timer.date();
  machine.header.version = version();
  machine.header.budget = options.budget.empty() ? "none" : options.budget;
  machine.header.device = machine.device->info();
  machine.header.libraries = machine.device->libraries();
  MeasureOptions measure;
  measure.least_us = [profile = machine.part](const kernels::CaseSpec& spec) {
    const auto least = least_us(spec, profile);
    return least.ok() ? *least : 0;
  };
  machine.measured = std::make_unique<DeviceTiles>(*machine.device, timer, kernels::make_case, measure);
  return machine;
}

struct OpenTuneJournal {
  JournalWriter writer;
  std::set<std::string> done;
};

Result<OpenTuneJournal> open_journal(const CalibrateOptions& options, const JournalHeader& header) {
  const std::string path = options.out + "/" + journal_name;
  std::error_code ec;
  fs::create_directories(options.out, ec);
  if (ec) return invalid_input("cannot be created: " + ec.message(), {options.out, 0, 0});
  if (!options.resume || !fs::exists(path, ec)) {
    ORRERY_TRY(writer, JournalWriter::create(path, header));
    return OpenTuneJournal{std::move(writer), {}};
  }
  std::uint64_t used = 0;
  ORRERY_TRY(text, read_text_file(path, std::uint64_t{1} << 30));
  ORRERY_TRY(journal, parse_tune_journal(text, path, &used));
  const std::string why = mismatch(journal.header, header, options.any_card);
  if (!why.empty()) return invalid_input(why, {path, 1, 0});
  ORRERY_TRY(writer, JournalWriter::append(path, used));
  OpenTuneJournal open{std::move(writer), {}};
  for (const TuneRecord& record : journal.records) open.done.insert(record.key());
  return open;
}

Status write_folder(const std::string& folder, const std::map<std::string, std::string>& files) {
  std::error_code ec;
  fs::create_directories(folder, ec);
  if (ec) return invalid_input("cannot be created: " + ec.message(), {folder, 0, 0});
  for (const auto& [name, text] : files) ORRERY_TRY_STATUS(write_file_atomically(folder + "/" + name, text));
  return ok_status();
}

// What the winners gain over the kernels' own choice, for people.
std::string gains_text(const TuneJournal& journal) {
  std::vector<double> ratios;
  for (const TuneRecord& r : journal.records) {
    if (r.search.own.us > 0 && r.search.winner.us > 0) ratios.push_back(r.search.own.us / r.search.winner.us);
  }
  if (ratios.empty()) return "";
  std::sort(ratios.begin(), ratios.end());
  const auto at = [&](double share) {
    return format_fixed(ratios[static_cast<std::size_t>(share * static_cast<double>(ratios.size() - 1))], 3);
  };
  return "own choice ÷ winner: median " + at(0.5) + ", nine in ten below " + at(0.9) + ", largest " + at(1) +
         "\n";
}

// Everything that follows from the journal, so that a resumed run writes the whole of it.
Result<std::string> write_results(const CalibrateOptions& options, const TuneMachine& machine) {
  const std::string path = options.out + "/" + journal_name;
  ORRERY_TRY(text, read_text_file(path, std::uint64_t{1} << 30));
  ORRERY_TRY(journal, parse_tune_journal(text, path));
  std::string said = gains_text(journal);
  if (!machine.law) {  // the law's are no measurements
    const std::string root = options.tables.empty() ? options.out + "/tables" : options.tables;
    const std::string folder = root + "/" + machine.header.hardware + "/" + machine.header.kernels;
    ORRERY_TRY_STATUS(write_folder(folder, tuned_files(journal)));
    said += "tables: " + folder + "\n";
  }
  if (options.export_to.empty()) return said;
  ORRERY_TRY(files, vllm_files(journal, vllm_device_of(journal.header)));
  ORRERY_TRY_STATUS(write_folder(options.export_to[1], files));
  return said + std::to_string(files.size()) +
         " files for VLLM_TUNED_CONFIG_FOLDER: " + options.export_to[1] +
         (machine.law ? " (by the tile law: nothing was measured)\n"
                      : " (tiles of our kernel, not of Triton's: time them there before you trust them)\n");
}

Result<int> tune(const CalibrateOptions& options, const CommandContext& context) {
  WallTimer timer;
  if (!options.export_to.empty() && options.export_to[0] != "vllm")
    return make_error(ErrorKind::usage, "--export knows vllm only", {}, "--export");
  TuneSession session;
  session.deadline = std::numeric_limits<double>::infinity();
  if (!options.budget.empty()) {
    ORRERY_TRY(budget, parse_duration(options.budget));
    session.deadline = timer.seconds() - process_age() + budget;
  }
  watch_interrupts();
  ORRERY_TRY(machine, options.simulator ? law_machine(options, timer) : device_machine(options, timer));
  TuneOptions asked;
  asked.models = options.models;
  asked.tables = options.ops;
  if (machine.law) asked.tables = {"grouped_gemm"};
  asked.max_problems = options.max_points;
  ORRERY_TRY(plan, tune_plan(asked));
  ORRERY_TRY(journal, open_journal(options, machine.header));
  machine.fill(session);
  Progress progress("searching tiles", plan.size(), !context.quiet);
  session.interrupted = [] { return interrupted(); };
  session.progress = [&](std::size_t done, std::size_t) { progress.update(done); };
  ORRERY_TRY(summary, run_tune(plan, journal.done, machine.timer(), timer, journal.writer, session));
  ORRERY_TRY(said, write_results(options, machine));
  if (context.json) {
    const Json json{{"planned", summary.planned},         {"skipped", summary.skipped},
                    {"searched", summary.searched},       {"unsupported", summary.unsupported},
                    {"timings", summary.timings},         {"out_of_time", summary.out_of_time},
                    {"interrupted", summary.interrupted}, {"by_law", machine.law != nullptr}};
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf(
        "%zu products planned, %zu already in the journal, %zu searched with %zu timings, %zu without a "
        "kernel\n%s%s",
        summary.planned, summary.skipped, summary.searched, summary.timings, summary.unsupported,
        summary.out_of_time ? "stopped by the budget; --resume goes on\n" : "", said.c_str());
  }
  return static_cast<int>(summary.interrupted ? ExitCode::interrupted : ExitCode::done);
}

}  // namespace

int run_tuning(const CalibrateOptions& options, const CommandContext& context) {
  const Result<int> code = tune(options, context);
  return code.ok() ? *code : report_errors(code.errors());
}

}  // namespace orrery
