// Compared cases as scoreboard.json (interfaces §8), .csv, .md, and for a terminal.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "reports/casebook/case_comparison.h"

namespace orrery {

// {cases: [{id, run, metric, published, predicted, low, high, error_percent, verdict, …}], coverage, by_part,
// by_engine, about: [{id, title, …, assumptions, residuals, refused}], requests: […]}. Own runs are in
// `cases` with `own: true` and in no summary: coverage and medians are of what others published.
Json scoreboard_json(const std::vector<CaseComparison>& cases);
std::string scoreboard_csv(const std::vector<CaseComparison>& cases);  // a row per run and metric
std::string scoreboard_text(const std::vector<CaseComparison>& cases);
std::string scoreboard_summary(const std::vector<CaseComparison>& cases);  // a line per case
// Sections of one heading level below `heading` ("##"), without a title of its own.
std::string scoreboard_sections(const std::vector<CaseComparison>& cases, const std::string& heading);
std::string scoreboard_markdown(const std::vector<CaseComparison>& cases);

}  // namespace orrery
