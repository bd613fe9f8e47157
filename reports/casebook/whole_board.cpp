#include "reports/casebook/whole_board.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "reports/casebook/published/board_text.h"

namespace orrery {

namespace {

using Groups = std::map<std::string, BoardGroup>;

template <class Key>
Groups group_rows(const WholeBoard& board, const Key& key) {
  Groups groups;
  for (const ScoreRow& row : board.rows)
    groups[key(row)].add(row.metric, row.interval && half_of(row) != std::string("fitted"));
  return groups;
}

std::string fixed(double v) { return format_fixed(v, 1); }
std::string with_sign(double v) { return (v >= 0 ? "+" : "") + fixed(v); }

Json group_json(const BoardGroup& g) {
  return {{"rows", g.errors.size()},
          {"median_abs_error_percent", g.median_absolute()},
          {"median_error_percent", g.median()},
          {"with_interval", g.intervals},
          {"measured_in_interval", g.covered},
          {"verdict_inside", g.inside},
          {"uninformative", g.uninformative}};
}

Json groups_json(const Groups& groups) {
  Json out = Json::object();
  for (const auto& [name, group] : groups) out[name] = group_json(group);
  return out;
}

Json row_json(const ScoreRow& row) {
  const ComparedMetric& m = row.metric;
  const auto bound = [&](double v) { return row.interval ? Json(v) : Json(); };
  return {{"id", row.id},
          {"run", row.run},
          {"source", to_string(row.source)},
          {"metric", m.name},
          {"hardware", row.evidence.part},
          {"engine", row.evidence.engine},
          {"model", row.model},
          {"rung", row.evidence.rung},
          {"on_tables", row.evidence.tables},
          {"published", m.measured},
          {"predicted", m.predicted},
          {"low", bound(m.low)},
          {"high", bound(m.high)},
          {"prices_low", bound(m.prices_low)},
          {"prices_high", bound(m.prices_high)},
          {"correction", m.correction.empty() ? Json() : Json(m.correction)},
          {"half", half_of(row)},
          {"error_percent", m.error_percent()},
          {"verdict", row.interval ? Json(verdict(m, true)) : Json()}};
}

// "named case\th100\t…" → cells of a line.
std::string cells(const std::string& key) {
  std::string out = "| ";
  for (const char c : key)
    out += c == '\t' ? std::string(" | ") : c == '<' ? std::string("&lt;") : std::string(1, c);
  return out;
}

std::string group_table(const std::string& names, int columns, const Groups& groups) {
  std::string out = "| " + names +
                    " | figures | median error % | median abs. error % | 90 % of errors below % | inside "
                    "(scored half) | too "
                    "wide (scored half) |\n|";
  for (int i = 0; i < columns; ++i) out += "---|";
  out += "--:|--:|--:|--:|--:|--:|\n";
  for (const auto& [key, g] : groups) {
    out += cells(key) + " | " + std::to_string(g.errors.size()) + " | " + with_sign(g.median()) + " | " +
           fixed(g.median_absolute()) + " | " + fixed(g.p90_absolute()) + " | " +
           (g.intervals == 0 ? std::string("– | –")
                             : std::to_string(g.inside) + " of " + std::to_string(g.intervals) + " | " +
                                   std::to_string(g.uninformative)) +
           " |\n";
  }
  return out;
}

std::string counts(const WholeBoard& board) {
  std::size_t sources[3] = {0, 0, 0};
  for (const ScoreRow& row : board.rows) ++sources[static_cast<std::size_t>(row.source)];
  std::string out = std::to_string(sources[0]) + " figures of named cases, " + std::to_string(sources[1]) +
                    " means of runs of ours, " + std::to_string(sources[2]) + " published rows";
  if (board.figures.empty()) return out + " (their file is not here)";
  return out + " (" + std::to_string(board.left_out) + " more left out by named rules)";
}

std::string part_engine_quantity(const ScoreRow& r) {
  return std::string(to_string(r.source)) + "\t" + r.evidence.part + "\t" + r.evidence.engine + "\t" +
         quantity_of(r.metric.name);
}

double coverage_share(const Coverage& coverage) {
  std::size_t covered = 0, rows = 0;
  for (const CoverageCell& c : coverage.by_quantity) {
    covered += c.covered;
    rows += c.rows;
  }
  return rows == 0 ? -1 : static_cast<double>(covered) / static_cast<double>(rows);
}

}  // namespace

Json whole_board_json(const WholeBoard& board) {
  Json rows = Json::array();
  for (const ScoreRow& row : board.rows) rows.push_back(row_json(row));
  const double share = coverage_share(board.coverage);
  return {{"cases", rows},
          {"coverage", share < 0 ? Json() : Json(share)},
          {"by_part", groups_json(group_rows(board, [](const ScoreRow& r) { return r.evidence.part; }))},
          {"by_engine", groups_json(group_rows(board, [](const ScoreRow& r) { return r.evidence.engine; }))},
          {"intervals", coverage_json(board.coverage)},
          {"bars", bars_json(board.bars)},
          {"left_out", board.left_out},
          {"refused", board.refused}};
}

std::string whole_board_csv(const WholeBoard& board) {
  std::string out =
      "source,id,run,case,hardware,engine,model,rung,tables,batch,context,rate,metric,published,predicted,"
      "low,high,"
      "prices_low,"
      "prices_high,half,error_percent,verdict\n";
  for (const ScoreRow& row : board.rows) {
    const ComparedMetric& m = row.metric;
    for (const std::string& text : {std::string(to_string(row.source)), row.id, row.run, row.group,
                                    row.evidence.part, row.evidence.engine, row.model, row.evidence.rung})
      out += csv_cell(text) + ",";
    out += format_fixed(row.evidence.tables, 3) + ",";
    for (const double v : {row.batch, row.context, row.rate}) out += (v > 0 ? format_number(v) : "") + ",";
    out += m.name + "," + format_number(m.measured) + "," + format_fixed(m.predicted, 4) + ",";
    for (const double v : {m.low, m.high, m.prices_low, m.prices_high})
      out += (row.interval ? format_fixed(v, 4) : "") + ",";
    out += std::string(half_of(row)) + "," + format_fixed(m.error_percent(), 2) + "," +
           verdict(m, row.interval) + "\n";
  }
  return out;
}

std::string whole_board_markdown(const WholeBoard& board) {
  std::string out =
      "# Scoreboard\n\nMade by `orrery validate`; definitions: docs/validation.md. Error = predicted ÷ "
      "measured − 1. "
      "\"Inside\": in the 90 % interval,\nwhose half-width is at most a quarter of the prediction; counted "
      "where no "
      "width comes from. Nothing of Orrery was fitted to a figure of others\nbut vllm-0.5 and vllm-0.5-rocm, "
      "from rows that are left out; runs of ours: accuracy.md says what was.\nRow by row: "
      "scoreboard.csv, .json; drawn: "
      "scoreboard.html (made beside this file, not kept in the repository).\n\n" +
      counts(board) + ".\n\n## Do the intervals hold?\n\n" +
      coverage_markdown(board.coverage, board.corrections);
  out += "\n## Targets\n\nOf published rows.\n\n" + bars_markdown(board.bars);
  out += "\n## Part, engine, quantity\n\n" +
         group_table("source | part | engine | quantity", 4, group_rows(board, part_engine_quantity));
  const auto named = [](const ScoreRow& r) {
    return r.source == ScoreSource::published_row ? std::string() : r.id + "\t" + quantity_of(r.metric.name);
  };
  Groups cases = group_rows(board, named);
  cases.erase("");
  out +=
      "\n## Cases and runs of ours\n\nEach by itself, with its assumptions: engine_fidelity.md, or `orrery "
      "validate CASE`.\n\n" +
      group_table("case | quantity", 2, cases);
  for (const std::string& text : board.refused) out += "- not compared: " + text + "\n";
  return out;
}

std::string whole_board_text(const WholeBoard& board) {
  TextTable table({"source", "part", "engine", "quantity", "figures", "median error %", "median abs. error %",
                   "inside (scored half)"});
  for (const auto& [key, g] : group_rows(board, part_engine_quantity)) {
    std::vector<std::string> row;
    for (std::size_t begin = 0; begin <= key.size();) {
      const std::size_t end = std::min(key.find('\t', begin), key.size());
      row.push_back(key.substr(begin, end - begin));
      begin = end + 1;
    }
    row.insert(row.end(),
               {std::to_string(g.errors.size()), with_sign(g.median()), fixed(g.median_absolute()),
                g.intervals == 0 ? "–" : std::to_string(g.inside) + " of " + std::to_string(g.intervals)});
    table.add(row);
  }
  std::string out = counts(board) + ".\n" + table.to_string() + "\n" + coverage_text(board.coverage) + "\n";
  for (const BarResult& b : board.bars) {
    if (b.rows > 0)
      out += std::string(b.met() ? "met     " : "missed  ") + b.bar.quantity + " on " +
             join(b.bar.hardware, ", ") + ": " + fixed(b.median_abs_percent) + " % of " +
             fixed(b.bar.median_abs_percent) + " %\n";
  }
  for (const std::string& text : board.refused) out += "not compared: " + text + "\n";
  return out;
}

}  // namespace orrery
