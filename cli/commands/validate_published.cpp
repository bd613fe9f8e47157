#include "cli/commands/validate_published.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/files.h"
#include "base/text.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "reports/casebook/published/board_text.h"
#include "reports/casebook/score_rows.h"

namespace orrery {

namespace {

Status write_board(const PublishedBoard& board, const std::string& folder) {
  ORRERY_TRY(out, AtomicDirectory::create(folder));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.json"), canonical_json(board_json(board))));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.csv"), board_csv(board)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.md"), board_markdown(board)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("left_out.csv"), left_out_csv(board)));
  return out.commit();
}

}  // namespace

Result<PublishedBoard> price_published_file(const PublishedCommandOptions& options,
                                            const CommandContext& context) {
  ORRERY_TRY(rules, load_import_rules(options.rules.empty() ? import_rules_path() : options.rules));
  ORRERY_TRY(rows, read_figure_rows(options.file));
  BoardOptions pricing;
  pricing.runs = options.fast ? 0 : BoardOptions().runs;
  pricing.threads = context.threads;
  pricing.keep_going = [](std::uint64_t) { return !interrupted(); };
  Progress progress("published runs", 0, !context.quiet && isatty(STDERR_FILENO) != 0);
  pricing.progress = [&progress](std::size_t done, std::size_t) { progress.update(done); };
  pricing.journal = options.out;
  pricing.resumed = [](std::size_t found, std::size_t all) {
    if (found > 0)
      say(LogLevel::info,
          std::to_string(found) + " of " + std::to_string(all) + " runs were priced before (prices.jsonl)");
  };
  Result<PublishedBoard> priced = price_published(std::move(rows), rules, pricing);
  if (!priced.ok() && priced.errors().front().kind == ErrorKind::interrupted)  // of one run's clock it says
                                                                               // too much
    return make_error(ErrorKind::interrupted,
                      options.out.empty()
                          ? "interrupted: nothing was written, and rows are priced anew next time"
                          : "interrupted: the same command goes on where it stood");
  return priced;
}

Result<int> validate_published(const PublishedCommandOptions& options, const CommandContext& context) {
  watch_interrupts();
  if (!context.overrides.empty())
    return make_error(ErrorKind::usage, "--set does not reach into published rows");
  ORRERY_TRY(corrections, shipped_interval_corrections());
  ORRERY_TRY(board, price_published_file(options, context));
  correct_intervals(board, corrections);
  if (!options.out.empty()) ORRERY_TRY_STATUS(write_board(board, options.out));
  if (context.json) {
    std::fputs(canonical_json(board_json(board)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(board_text(board).c_str(), stdout);
    if (!options.out.empty()) std::printf("written: %s/scoreboard.md\n", options.out.c_str());
  }
  const std::vector<BarResult> bars = compare_bars(board);
  const bool missed =
      options.bars && std::any_of(bars.begin(), bars.end(), [](const BarResult& b) { return !b.met(); });
  return static_cast<int>(missed ? ExitCode::check_failed : ExitCode::done);
}

}  // namespace orrery
