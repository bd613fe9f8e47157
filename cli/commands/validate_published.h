// `orrery validate --published FILE.csv`.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/command.h"
#include "reports/casebook/published/published_board.h"

namespace orrery {

struct PublishedCommandOptions {
  std::string file;   // layout: docs/validation.md
  std::string rules;  // import rules of one's own; empty: ours
  std::string out;    // directory for scoreboard.{json,csv,md} and left_out.csv; empty: none
  bool fast = false;  // without intervals
  bool bars = false;  // exit code 7 when a target is missed
};

// Every row priced, by the rules of the options, without corrections of intervals.
Result<PublishedBoard> price_published_file(const PublishedCommandOptions& options,
                                            const CommandContext& context);

Result<int> validate_published(const PublishedCommandOptions& options, const CommandContext& context);

}  // namespace orrery
