// `orrery validate` without names: everything on one board; and `--fit-intervals`, which the widths come
// from.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/command.h"

namespace orrery {

struct BoardCommandOptions {
  std::string out;      // directory; empty: reports/results in the source tree, else none
  std::string figures;  // CSV of published figures; empty: that of ../shared, where it is
  bool fast = false;    // without intervals
  bool fit = false;     // write reports/cases/interval_corrections.yaml anew, before anything is scored
};

Result<int> validate_board(const BoardCommandOptions& options, const CommandContext& context);

}  // namespace orrery
