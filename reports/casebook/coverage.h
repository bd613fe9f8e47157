// Whether intervals hold: how many measured figures lie in them, and how wide they are.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/json.h"
#include "reports/casebook/score_rows.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

struct CoverageCell {
  std::string quantity, rung, part, engine;  // empty: all
  std::size_t rows = 0;
  std::size_t covered = 0, covered_by_prices = 0;  // in the interval; in that of prices and host times alone
  std::size_t uninformative = 0;                   // wider than a verdict may be, whether it covers or not
  std::vector<double> half_widths;                 // as a share of the prediction
  double coverage() const { return static_cast<double>(covered) / static_cast<double>(rows); }
  double median_half_width() const;
};

// 95 % interval of a share, k of n (Wilson's score).
struct ShareRange {
  double low = 0, high = 1;
};
ShareRange wilson(std::size_t k, std::size_t n);

// A price stands on tables where measured and published ones make up so much of its device time.
constexpr double stands_on_tables = 0.9;

// Rows of the half that widths do not come from: by quantity; quantity and whether prices stand on tables (in
// place of the rung "tables" or "less than that"); quantity and rung; and also part and engine. Sorted by
// those names.
struct Coverage {
  std::vector<CoverageCell> by_quantity, by_tables, by_rung, by_part;
};
Coverage coverage_of(const std::vector<ScoreRow>& rows);

Json coverage_json(const Coverage& coverage);
std::string coverage_markdown(const Coverage& coverage, const IntervalCorrections& corrections);
std::string coverage_text(const Coverage& coverage);

}  // namespace orrery
