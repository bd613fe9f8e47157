// `orrery validate --engines`: how near the simulation is to real engines, and which of their rules it has.
// Plain results; the text is a function of them (fidelity_text.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "reports/casebook/engine_run.h"
#include "reports/casebook/error_split.h"
#include "reports/casebook/rule_coverage.h"

namespace orrery {

struct RunFidelity {
  EngineRun run;
  std::string skipped;                    // why the run could not be compared; else empty
  std::int64_t steps = 0, identical = 0;  // teacher-forced
  StepTimeReplay times;
  std::vector<Stall> stalls;
  std::vector<ExperimentSplit> experiments;
};

struct EngineFidelity {
  std::vector<RunFidelity> runs;
  std::vector<EngineCoverage> engines;
  std::string published;  // Markdown of the published cases (scoreboard.h), none of them ours
  Json published_data;    // the same as data; null: not compared
  bool shared_found = false;
  std::vector<std::string> failures;  // checks outside their bar, each one sentence
};

// The bars that fail the check (exit code 7).
constexpr double least_identical = 0.99;    // teacher-forced schedule, each run
constexpr double most_replay_error = 0.02;  // median of step-time replay that runs on by itself, each run
// Errors of predictions have no bar here: they are what the report is for.

// One run of the list; `said` is told what is being worked on.
Result<RunFidelity> measure_run_fidelity(const EngineRun& run,
                                         const std::function<void(const std::string&)>& said);
Result<EngineFidelity> measure_engine_fidelity(const std::function<void(const std::string&)>& said);

Json fidelity_json(const EngineFidelity& f);
std::string fidelity_csv(const EngineFidelity& f);       // a row per run, experiment and metric
std::string fidelity_markdown(const EngineFidelity& f);  // reports/results/engine_fidelity.md
std::string fidelity_text(const EngineFidelity& f);      // for a terminal

}  // namespace orrery
