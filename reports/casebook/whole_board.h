// Everything that predictions were compared with on one board: named cases, runs of ours, published rows.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "reports/casebook/coverage.h"
#include "reports/casebook/published/published_board.h"
#include "reports/casebook/score_rows.h"

namespace orrery {

struct WholeBoard {
  std::vector<ScoreRow> rows;
  Coverage coverage;
  IntervalCorrections corrections;
  std::vector<BarResult> bars;       // of published rows
  std::size_t left_out = 0;          // published rows that were not priced
  std::string figures;               // name of their file; empty: it is not here, and its rows lack
  std::vector<std::string> refused;  // cases that were not compared, each with the reason
};

// scoreboard.json (interfaces §8). `coverage` is of the half of the cases that no width comes from.
Json whole_board_json(const WholeBoard& board);
std::string whole_board_csv(const WholeBoard& board);
std::string whole_board_markdown(const WholeBoard& board);
std::string whole_board_text(const WholeBoard& board);
// scoreboard.html: predicted against measured, residuals, coverage; needs the charts library.
Result<std::string> whole_board_page(const WholeBoard& board);

}  // namespace orrery
