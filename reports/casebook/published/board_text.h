// A priced board as scoreboard.json (interfaces §8), .csv, .md, and for a terminal.
#pragma once

#include <string>

#include "base/json.h"
#include "reports/casebook/published/published_board.h"

namespace orrery {

// {cases: [{id, metric, published, predicted, low, high, error_percent, verdict, …}], coverage, by_part,
// by_engine, groups: [part × engine × metric], rules, bars, worst, left_out}. `id` is "line N" of the file.
Json board_json(const PublishedBoard& board);
std::string board_csv(const PublishedBoard& board);       // a row per priced row
std::string left_out_csv(const PublishedBoard& board);    // a row per row left out: line, rule, why
std::string board_text(const PublishedBoard& board);      // for a terminal
std::string board_markdown(const PublishedBoard& board);  // the report; names no file and no time

// Of other boards too.
Json bars_json(const std::vector<BarResult>& bars);
std::string bars_markdown(const std::vector<BarResult>& bars);
std::string csv_cell(const std::string& text);  // quoted where it must be

}  // namespace orrery
