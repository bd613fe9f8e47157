// `orrery validate CASE…` and `orrery list cases`.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/command.h"
#include "costmodel/profile_lists.h"
#include "reports/casebook/case_comparison.h"

namespace orrery {

struct CaseCommandOptions {
  std::vector<std::string> names;  // ids, or paths of case files
  std::string out;                 // directory for scoreboard.{json,csv,md}; empty: none
  bool fast = false;               // without intervals
};

// The exit code. A case that this version refuses is no error beside others; named alone it is invalid input.
Result<int> validate_cases(const CaseCommandOptions& options, const CommandContext& context);

// Every published case, without corrections of intervals.
Result<std::vector<CaseComparison>> compare_published_cases(bool fast, const CommandContext& context);

// Every run of ours.
Result<std::vector<CaseComparison>> compare_own_runs(const CommandContext& context);

// Our own runs, then the published cases; each with what it is, its status and its source.
Result<std::vector<ListEntry>> list_cases();

}  // namespace orrery
