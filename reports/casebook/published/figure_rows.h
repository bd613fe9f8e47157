// Published figures as a table: one measured value a row, in the layout of ../shared/data/published_e2e.csv.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/result.h"

namespace orrery {

// The columns that a file must have, in any order; others are not read.
enum class FigureColumn {
  hw,
  gpus,
  engine,
  engine_version,
  model,
  quant,
  tp,
  ep,
  pp,
  dp,
  disagg,
  isl,
  osl,
  workload,
  load_type,
  load_value,
  metric,
  value,
  unit,
  source,
  locator,
  note
};
constexpr std::size_t figure_columns = 22;
const char* to_string(FigureColumn column);

struct FigureRow {
  int line = 0;      // in the file, from 1
  double value = 0;  // the column of that name
  std::array<std::string, figure_columns> cells;

  const std::string& operator[](FigureColumn column) const { return cells[static_cast<std::size_t>(column)]; }
};

// Cells may be quoted as in RFC 4180; a quoted cell does not go over a line's end. Errors, all of the file at
// once (at most 20), each with line and column: a column that lacks or stands twice in the header, a row with
// another number of cells, a quote that is not closed, a value that is no number. Plain, .gz or .zst.
Result<std::vector<FigureRow>> read_figure_rows(const std::string& path);

// A cell as a number above 0, up to a milliard; 0 when it is anything else ("", "5abc").
double number_cell(const std::string& cell);
// A cell as a whole number above 0; 0 when it is anything else ("", "see source").
std::int64_t whole_cell(const std::string& cell);

}  // namespace orrery
