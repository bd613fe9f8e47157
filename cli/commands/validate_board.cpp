#include "cli/commands/validate_board.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iterator>
#include <optional>

#include "base/digest.h"
#include "base/files.h"
#include "cli/commands/validate_cases.h"
#include "cli/commands/validate_published.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "reports/casebook/interval_fit.h"
#include "reports/casebook/published/import_rules.h"
#include "reports/casebook/published/price_journal.h"
#include "reports/casebook/published_requests.h"
#include "reports/casebook/whole_board.h"
#include "reports/page_parts.h"

namespace orrery {

namespace {

struct Compared {
  std::vector<CaseComparison> cases;
  std::optional<PublishedBoard> published;
};

Result<FitInput> input_of(const std::string& name, const std::string& path) {
  ORRERY_TRY(text, read_text_file(path));
  Digest digest;
  digest.add_text(text);
  return FitInput{name, digest_text(digest.value())};
}

Status write_corrections(const IntervalCorrections& corrections, const std::string& figures) {
  ORRERY_TRY(table, input_of(std::filesystem::path(figures).filename().string(), figures));
  ORRERY_TRY(rules, input_of("reports/cases/import_rules.yaml", import_rules_path()));
  ORRERY_TRY(profiles, profiles_digest());
  return write_file_atomically(
      interval_corrections_path(),
      corrections_yaml(corrections, {table, rules, {"profiles", digest_text(profiles)}}));
}

std::vector<ScoreRow> all_rows(const Compared& compared) {
  std::vector<ScoreRow> rows = score_rows(compared.cases);
  if (compared.published) {
    const std::vector<ScoreRow> published = score_rows(*compared.published);
    rows.insert(rows.end(), published.begin(), published.end());
  }
  return rows;
}

void correct(Compared& compared, const IntervalCorrections& corrections) {
  correct_intervals(compared.cases, corrections);
  if (compared.published) correct_intervals(*compared.published, corrections);
}

// Corrections fitted to what was compared, or those that stand in the data directory.
Result<IntervalCorrections> corrections_for(Compared compared, const BoardCommandOptions& options,
                                            const std::string& figures) {
  if (!options.fit) return shipped_interval_corrections();
  correct(compared, {});
  IntervalCorrections corrections = fit_intervals(all_rows(compared));
  ORRERY_TRY_STATUS(write_corrections(corrections, figures));
  say(LogLevel::info, "wrote " + interval_corrections_path());
  return corrections;
}

Result<Compared> compare_all(const BoardCommandOptions& options, const std::string& figures,
                             const std::string& folder, const CommandContext& context) {
  Compared out;
  if (!figures.empty()) {
    PublishedCommandOptions published;
    published.file = figures;
    published.fast = options.fast;
    published.out = folder;
    ORRERY_TRY(board, price_published_file(published, context));
    out.published = std::move(board);
  }
  ORRERY_TRY(cases, compare_published_cases(options.fast, context));
  out.cases = std::move(cases);
  if (options.fit) return out;  // runs of ours have no part in it
  ORRERY_TRY(own, compare_own_runs(context));
  out.cases.insert(out.cases.end(), std::make_move_iterator(own.begin()), std::make_move_iterator(own.end()));
  return out;
}

Status write_whole_board(const WholeBoard& board, const std::string& folder) {
  ORRERY_TRY(out, AtomicDirectory::create(folder));
  ORRERY_TRY_STATUS(
      write_file_atomically(out.file("scoreboard.json"), canonical_json(whole_board_json(board))));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.csv"), whole_board_csv(board)));
  ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.md"), whole_board_markdown(board)));
  if (charts_library().empty()) {
    say(LogLevel::warning, "no scoreboard.html: the charts library is not here (./dev fetches it)");
  } else {
    ORRERY_TRY(page, whole_board_page(board));
    ORRERY_TRY_STATUS(write_file_atomically(out.file("scoreboard.html"), page));
  }
  return out.commit();
}

}  // namespace

Result<int> validate_board(const BoardCommandOptions& options, const CommandContext& context) {
  watch_interrupts();
  if (!context.overrides.empty())
    return make_error(ErrorKind::usage, "--set does not reach into cases and published rows");
  std::error_code ec;
  std::string folder = options.out, figures = options.figures;
  // A board without intervals does not take the place of the committed one.
  if (folder.empty() && !options.fast && std::filesystem::is_directory("reports/results", ec))
    folder = "reports/results";
  if (figures.empty()) figures = find_shared_file("data/published_e2e.csv");
  if (options.fit && (figures.empty() || options.fast))
    return make_error(ErrorKind::usage, options.fast
                                            ? "--fit-intervals needs intervals: leave --fast out"
                                            : "--fit-intervals needs ../shared, or --published FILE.csv");
  ORRERY_TRY(compared, compare_all(options, figures, options.out, context));
  ORRERY_TRY(corrections, corrections_for(compared, options, figures));
  correct(compared, corrections);
  WholeBoard board;
  board.rows = all_rows(compared);
  board.coverage = coverage_of(board.rows);
  board.corrections = std::move(corrections);
  board.figures = figures;
  if (compared.published) {
    board.bars = compare_bars(*compared.published);
    board.left_out = compared.published->left_out.size();
  }
  for (const CaseComparison& c : compared.cases) {
    if (!c.about.refusal.empty()) board.refused.push_back(c.about.id + ": " + c.about.refusal);
  }
  if (!folder.empty() && !options.fit) ORRERY_TRY_STATUS(write_whole_board(board, folder));
  if (context.json) {
    std::fputs(canonical_json(whole_board_json(board)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(options.fit ? coverage_text(board.coverage).c_str() : whole_board_text(board).c_str(), stdout);
    if (!folder.empty() && !options.fit) std::printf("written: %s/scoreboard.md\n", folder.c_str());
  }
  return static_cast<int>(ExitCode::done);
}

}  // namespace orrery
