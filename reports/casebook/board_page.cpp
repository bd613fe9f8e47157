// scoreboard.html: the board as charts, one offline page.
#include <cstdio>
#include <map>
#include <utility>

#include "reports/casebook/whole_board.h"
#include "reports/page_parts.h"
#include "reports/report_page.h"

namespace orrery {

namespace {

// Of these there is a chart of each kind; the order is that of the page.
struct Drawn {
  const char* quantity;
  const char* title;
};
constexpr Drawn kDrawn[] = {
    {"tpot_ms", "TPOT, ms"}, {"ttft_ms", "TTFT, ms"}, {"throughput", "throughput, per s"},
    {"itl_ms", "ITL, ms"},   {"e2e_ms", "E2E, ms"},   {"duration_s", "duration, s"}};

std::string chart(const std::string& id, const std::string& label) {
  return "<div class=\"chart\" id=\"" + id + "\" role=\"img\" aria-label=\"" + label + "\"></div>\n";
}

// Four digits are what a chart can show; more would only make the page larger.
double shown(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", v);
  return std::stod(text);
}

Json quantities_json(const WholeBoard& board, std::map<std::string, std::size_t>& groups) {
  for (const ScoreRow& row : board.rows)
    groups.emplace(row.evidence.part + " · " + engine_family(row.evidence.engine), 0);
  std::size_t number = 0;
  for (auto& [name, index] : groups) index = number++;
  Json out = Json::object();
  for (const Drawn& d : kDrawn) out[d.quantity] = Json::array();
  for (const ScoreRow& row : board.rows) {
    const std::string quantity = quantity_of(row.metric.name);
    if (!out.contains(quantity) || !(row.metric.predicted > 0)) continue;
    out[quantity].push_back(
        {groups.at(row.evidence.part + " · " + engine_family(row.evidence.engine)),
         shown(row.metric.measured), shown(row.metric.predicted), shown(row.batch), shown(row.context),
         shown(row.rate),
         row.source == ScoreSource::published_row ? row.id + ", " + row.model : row.id + ": " + row.run});
  }
  return out;
}

Json coverage_points(const Coverage& coverage) {
  Json out = Json::array();
  for (const CoverageCell& c : coverage.by_rung) {
    const ShareRange range = wilson(c.covered, c.rows);
    const auto n = static_cast<double>(c.rows);
    out.push_back({{"name", c.quantity + ", " + c.rung + " (" + std::to_string(c.rows) + ")"},
                   {"share", c.coverage()},
                   {"low", range.low},
                   {"high", range.high},
                   {"prices", static_cast<double>(c.covered_by_prices) / n},
                   {"half_width", c.median_half_width()}});
  }
  return out;
}

}  // namespace

Result<std::string> whole_board_page(const WholeBoard& board) {
  std::map<std::string, std::size_t> groups;
  Json data;
  data["quantities"] = quantities_json(board, groups);
  data["groups"] = Json::array();
  for (const auto& [name, index] : groups) data["groups"].push_back(name);
  data["coverage"] = coverage_points(board.coverage);
  ORRERY_TRY(scripts, page_scripts(data));
  std::string body =
      "<main>\n<h1>Predicted against measured</h1>\n<p class=\"sub\">" + std::to_string(board.rows.size()) +
      " figures; tables, definitions and what was left out: scoreboard.md, docs/validation.md</p>\n"
      "<h2>Do the 90 % intervals hold?</h2>\n<p>On the half of the cases that no width comes from.</p>\n" +
      chart("coverage", "Share of measured figures in their interval, by quantity and rung");
  for (const Drawn& d : kDrawn) {
    const std::string quantity = d.quantity, title = d.title;
    if (data["quantities"][quantity].empty()) continue;
    body += "<h2>" + escape_html(title) + "</h2>\n" +
            chart("against-" + quantity, title + ", predicted against measured");
    const std::pair<const char*, std::size_t> axes[] = {{"batch", 3}, {"context", 4}, {"rate", 5}};
    for (const auto& [over, column] : axes) {
      const auto& rows = data["quantities"][quantity];
      bool given = false;
      for (const Json& row : rows) given = given || row[column].get<double>() > 0;
      if (given)
        body += chart(std::string("over-") + over + "-" + quantity,
                      title + ", predicted over measured by " + over);
    }
  }
  return report_head + body + "</main>\n" + scripts + board_tail;
}

}  // namespace orrery
