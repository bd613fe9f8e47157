// Published rows priced and summed up.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "reports/benchmark_comparison.h"
#include "reports/casebook/published/figure_rows.h"
#include "reports/casebook/published/run_import.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

struct PricedSetup {
  RowRule rule = RowRule::priced;  // or why it cannot be simulated
  std::string why;
  std::vector<ComparedMetric> metrics;                     // by name; `measured` means nothing
  std::vector<bool> intervals;                             // of each metric: it has one
  std::vector<std::pair<std::string, double>> provenance;  // share of device time by rung
};

struct BoardOptions {
  int runs = 8;  // behind the intervals; 0: none
  int threads = 1;
  std::function<bool(std::uint64_t)> keep_going = {};
  std::function<void(std::size_t done, std::size_t all)> progress = {};
  // Folder of the journal (price_journal.h): what stands there is not priced again. Empty: none.
  std::string journal = {};
  std::function<void(std::size_t found, std::size_t all)> resumed = {};  // with a journal, before any pricing
};

// A row that was priced. `compared.measured` is the published figure in our unit.
struct BoardRow {
  std::size_t row = 0, setup = 0;  // in PublishedBoard
  ComparedMetric compared;
  bool interval = false;  // else its shortened runs say nothing of this metric, or none were asked for
};

// A row that was not, or only as if its rule did not hold.
struct LeftOutRow {
  std::size_t row = 0;
  RowRule rule = RowRule::value;
  std::string why;
  std::optional<double> error_percent;  // priced as if
};

struct PublishedBoard {
  std::vector<FigureRow> rows;
  std::vector<PublishedSetup> setups;
  std::vector<PricedSetup> priced;  // one a setup
  std::vector<BoardRow> board;      // in the order of the file
  std::vector<LeftOutRow> left_out;
  std::vector<AccuracyBar> bars;
  std::vector<RowExplanation> explanations;
  int runs = 0;
};

// Its memory planned. Errors: what this version does not model, what does not fit.
Result<Scenario> read_setup(const PublishedSetup& setup);

// Errors: interrupted. A setup that cannot be simulated is no error, its rows are left out. The same whatever
// the number of threads.
Result<PublishedBoard> price_published(std::vector<FigureRow> rows, const ImportRules& rules,
                                       const BoardOptions& options);

// Medians over rows.
struct BoardGroup {
  std::vector<double> errors;  // percent, signed
  std::size_t intervals = 0, covered = 0, inside = 0, uninformative = 0;
  void add(const ComparedMetric& metric, bool intervals);
  double median() const;
  double median_absolute() const;
  double p90_absolute() const;
};

// Whether it counts in coverage: it has an interval, and no width comes from its case.
bool is_scored(const PublishedBoard& board, const BoardRow& row);

// By one key of a row: what to print for it.
std::map<std::string, BoardGroup> group_board(
    const PublishedBoard& board,
    const std::function<std::string(const FigureRow&, const PublishedSetup&, const ComparedMetric&)>& key);

struct BarResult {
  AccuracyBar bar;
  std::size_t rows = 0;
  double median_abs_percent = 0;
  bool met() const { return rows == 0 || median_abs_percent <= bar.median_abs_percent; }
};
std::vector<BarResult> compare_bars(const PublishedBoard& board);

}  // namespace orrery
