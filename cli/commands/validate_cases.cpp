#include "cli/commands/validate_cases.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/files.h"
#include "base/text.h"
#include "cli/interrupt.h"
#include "reports/casebook/score_rows.h"
#include "reports/casebook/scoreboard.h"

namespace orrery {

namespace {

CaseOptions comparing(bool fast, const CommandContext& context) {
  CaseOptions options;
  options.runs = fast ? 0 : 16;
  options.threads = context.threads;
  options.keep_going = [](std::uint64_t) { return !interrupted(); };
  options.said = [quiet = context.quiet](const std::string& what) {
    if (!quiet && isatty(STDERR_FILENO) != 0) std::fprintf(stderr, "orrery: %s\n", what.c_str());
  };
  return options;
}

// By id, by the path of a file, or a run of our own.
Result<CaseComparison> compare_named(const std::string& name, const CaseOptions& options) {
  if (name.ends_with(".yaml")) {
    ORRERY_TRY(published, load_published_case(name));
    return compare_case(published, options);
  }
  std::vector<std::string> names = published_case_ids();
  if (std::find(names.begin(), names.end(), name) != names.end()) {
    ORRERY_TRY(published, load_published_case(published_case_path(name)));
    return compare_case(published, options);
  }
  ORRERY_TRY(runs, list_engine_runs());
  for (const EngineRun& run : runs) {
    names.push_back(run.name);
    if (run.name != name) continue;
    ORRERY_TRY(measured, measure_run_fidelity(run, options.said));
    return case_of(measured);
  }
  return make_error(ErrorKind::usage, "no case is called " + quote(name) + did_you_mean(name, names) +
                                          "; orrery list cases has them all");
}

Status write_scoreboard(const std::vector<CaseComparison>& cases, const std::string& folder) {
  ORRERY_TRY(out, AtomicDirectory::create(folder));
  ORRERY_TRY_STATUS(
      write_file_atomically(out.file("scoreboard.json"), canonical_json(scoreboard_json(cases))));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.csv"), scoreboard_csv(cases)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.md"), scoreboard_markdown(cases)));
  return out.commit();
}

}  // namespace

Result<std::vector<CaseComparison>> compare_published_cases(bool fast, const CommandContext& context) {
  watch_interrupts();
  std::vector<CaseComparison> cases;
  for (const std::string& id : published_case_ids()) {
    ORRERY_TRY(compared, compare_named(id, comparing(fast, context)));
    cases.push_back(std::move(compared));
  }
  return cases;
}

Result<std::vector<CaseComparison>> compare_own_runs(const CommandContext& context) {
  ORRERY_TRY(runs, list_engine_runs());
  std::vector<CaseComparison> cases;
  for (const EngineRun& run : runs) {
    ORRERY_TRY(measured, measure_run_fidelity(run, comparing(true, context).said));
    cases.push_back(case_of(measured));
  }
  return cases;
}

Result<int> validate_cases(const CaseCommandOptions& options, const CommandContext& context) {
  watch_interrupts();
  if (!context.overrides.empty())
    return make_error(ErrorKind::usage,
                      "--set does not reach into a case: copy its file, change it there, "
                      "and pass its path");
  std::vector<CaseComparison> cases;
  for (const std::string& name : options.names) {
    ORRERY_TRY(compared, compare_named(name, comparing(options.fast, context)));
    cases.push_back(std::move(compared));
  }
  ORRERY_TRY(corrections, shipped_interval_corrections());
  correct_intervals(cases, corrections);
  if (!options.out.empty()) ORRERY_TRY_STATUS(write_scoreboard(cases, options.out));
  if (context.json) {
    std::fputs(canonical_json(scoreboard_json(cases)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(scoreboard_text(cases).c_str(), stdout);
    if (!options.out.empty()) std::printf("written: %s/scoreboard.md\n", options.out.c_str());
  }
  for (const CaseComparison& c : cases) {
    if (!c.runs.empty()) return static_cast<int>(ExitCode::done);
  }
  Errors refused;
  for (const CaseComparison& c : cases)
    refused.push_back(invalid_input("case " + c.about.id + " cannot be compared: " + c.about.refusal));
  return refused;
}

Result<std::vector<ListEntry>> list_cases() {
  std::vector<ListEntry> out;
  ORRERY_TRY(runs, list_engine_runs());
  for (const EngineRun& run : runs) {
    out.push_back({run.name, "our own step log: " + run.model + " on " + run.hardware + ", vLLM 0.24.0",
                   "runs; fitted to it: " + run.fitted + (run.from_shared ? "; read from ../shared" : "")});
  }
  for (const std::string& id : published_case_ids()) {
    ORRERY_TRY(c, load_published_case(published_case_path(id)));
    std::string status = "runs (" + std::to_string(c.runs.size()) + ")";
    if (!c.refusal.empty())
      status = "refused: " + c.needs + "; " + c.refusal;
    else if (!c.needs.empty())
      status += "; its file says refused: remove that line";
    out.push_back({id, "published: " + c.title + "; " + c.model + " on " + c.hardware + ", " + c.engine,
                   status + "; fitted to it: nothing; " + c.url});
  }
  return out;
}

}  // namespace orrery
