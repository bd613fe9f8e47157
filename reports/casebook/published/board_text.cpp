#include "reports/casebook/published/board_text.h"

#include <algorithm>
#include <map>

#include "base/text.h"
#include "reports/casebook/case_comparison.h"
#include "reports/casebook/score_rows.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

namespace {

using Row = std::vector<std::string>;

struct Table {
  Row header;
  std::vector<Row> rows;
};

std::string fixed(double v) { return format_fixed(v, 1); }
std::string with_sign(double v) { return (v >= 0 ? "+" : "") + fixed(v); }
std::string number(double v) { return format_fixed(v, v < 100 ? 2 : v < 10000 ? 1 : 0); }

std::string share(std::size_t part, std::size_t all) {
  return all == 0 ? "–" : fixed(100.0 * static_cast<double>(part) / static_cast<double>(all)) + " %";
}

std::string text_of(const Table& table) {
  TextTable text(table.header);
  for (const Row& row : table.rows) text.add(row);
  return text.to_string();
}

// Cells are texts of others: none may be taken for a tag.
std::string escape_tags(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? std::string("&lt;") : std::string(1, c);
  return out;
}

// At most so many bytes, whole characters of UTF-8.
std::string cut(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0U) == 0x80U) --most;
  return text.substr(0, most);
}

std::string markdown_of(const Table& table) {
  const auto line = [](const Row& cells) {
    std::string out = "|";
    for (std::string cell : cells) {
      std::replace(cell.begin(), cell.end(), '|', '/');
      out += " " + escape_tags(cell) + " |";
    }
    return out + "\n";
  };
  std::string out = line(table.header);
  for (std::size_t i = 0; i < table.header.size(); ++i) out += "|---";
  out += "|\n";
  for (const Row& row : table.rows) out += line(row);
  return out;
}

// Rows of a table whose first cells are the parts of the key, split at tabs.
Table groups_table(const std::map<std::string, BoardGroup>& groups, Row header) {
  for (const char* const name :
       {"rows", "median abs. error %", "median error %", "90 % of errors below %", "inside (scored half)"})
    header.emplace_back(name);
  Table table{header, {}};
  for (const auto& [key, group] : groups) {
    Row row;
    for (std::size_t begin = 0; begin <= key.size();) {
      const std::size_t end = std::min(key.find('\t', begin), key.size());
      row.push_back(key.substr(begin, end - begin));
      begin = end + 1;
    }
    row.insert(row.end(), {std::to_string(group.errors.size()), fixed(group.median_absolute()),
                           with_sign(group.median()), fixed(group.p90_absolute()),
                           share(group.inside, group.intervals)});
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string part_engine_metric(const FigureRow&, const PublishedSetup& s, const ComparedMetric& m) {
  return s.hardware + "\t" + s.engine + "\t" + quantity_of(m.name);
}
std::string source_metric(const FigureRow& r, const PublishedSetup& s, const ComparedMetric& m) {
  return r[FigureColumn::source] + "\t" + s.hardware + "\t" + quantity_of(m.name);
}
std::string model_engine(const FigureRow&, const PublishedSetup& s, const ComparedMetric& m) {
  return s.model + "\t" + s.hardware + "\t" + s.engine + "\t" + quantity_of(m.name);
}

// Powers of four: 1, 4, 16, 64, 256, …
std::string load_metric(const FigureRow& r, const PublishedSetup& s, const ComparedMetric& m) {
  const std::int64_t load = std::max<std::int64_t>(1, whole_cell(r[FigureColumn::load_value]));
  std::int64_t low = 1;
  while (4 * low <= load) low *= 4;
  const std::string name = std::to_string(low) + " to " + std::to_string(4 * low - 1);
  return s.hardware + "\t" + quantity_of(m.name) + "\t" +
         std::string(10 - std::min<std::size_t>(10, name.size()), ' ') + name;
}

struct RuleUse {
  RowRule rule = RowRule::value;
  std::size_t rows = 0;
  BoardGroup as_if;
  std::map<std::string, std::size_t> why;
};

std::vector<RuleUse> rule_uses(const PublishedBoard& board) {
  std::vector<RuleUse> uses(row_rules);
  for (const LeftOutRow& row : board.left_out) {
    RuleUse& use = uses[static_cast<std::size_t>(row.rule)];
    use.rule = row.rule;
    ++use.rows;
    ++use.why[row.why];
    if (row.error_percent) use.as_if.errors.push_back(*row.error_percent);
  }
  std::erase_if(uses, [](const RuleUse& use) { return use.rows == 0; });
  return uses;
}

// What a rule that takes more than 5 % of the rows does to the median, where that can be said.
std::string effect(const RuleUse& use, const PublishedBoard& board) {
  if (20 * use.rows <= board.rows.size()) return "";
  if (use.as_if.errors.empty()) return "cannot be priced";
  BoardGroup with = use.as_if, without;
  for (const BoardRow& row : board.board) {
    without.add(row.compared, false);
    with.add(row.compared, false);
  }
  return "priced as if: " + with_sign(use.as_if.median()) + " %, abs. " + fixed(use.as_if.median_absolute()) +
         " % over " + std::to_string(use.as_if.errors.size()) + "; all rows " +
         fixed(without.median_absolute()) + " → " + fixed(with.median_absolute()) + " %";
}

std::string commonest(const RuleUse& use) {
  const auto most = std::max_element(use.why.begin(), use.why.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  std::string text = most->first;
  if (text.size() > 60) text = cut(text, 57) + "...";
  return text + " (" + std::to_string(most->second) + ")";
}

Table rules_table(const PublishedBoard& board) {
  Table table{{"rule", "what it leaves out", "rows", "share", "most often", "median effect"}, {}};
  for (const RuleUse& use : rule_uses(board))
    table.rows.push_back({to_string(use.rule), meaning(use.rule), std::to_string(use.rows),
                          share(use.rows, board.rows.size()), commonest(use), effect(use, board)});
  return table;
}

std::string shares(const std::vector<std::pair<std::string, double>>& provenance) {
  std::vector<std::string> parts;
  for (const auto& [rung, part] : provenance) {
    if (part >= 0.005) parts.push_back(format_fixed(100 * part, 0) + " % " + rung);
  }
  return join(parts, ", ");
}

// The rows furthest off, by the ratio of predicted and measured, one of a setup.
std::vector<const BoardRow*> worst_of(std::vector<const BoardRow*> rows, std::size_t most) {
  const auto off = [](const BoardRow* r) {
    const ComparedMetric& m = r->compared;  // both are above 0
    return std::max(m.predicted / m.measured, m.measured / m.predicted);
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const BoardRow* a, const BoardRow* b) { return off(a) > off(b); });
  std::vector<const BoardRow*> out;
  for (const BoardRow* row : rows) {
    const bool again =
        std::any_of(out.begin(), out.end(), [&](const BoardRow* r) { return r->setup == row->setup; });
    if (!again) out.push_back(row);
    if (out.size() == most) break;
  }
  return out;
}

std::vector<const BoardRow*> worst_rows(const PublishedBoard& board, std::size_t most) {
  std::vector<const BoardRow*> rows;
  for (const BoardRow& row : board.board) rows.push_back(&row);
  return worst_of(std::move(rows), most);
}

std::string known_of(const PublishedBoard& board, const BoardRow& row) {
  const PublishedSetup& setup = board.setups[row.setup];
  for (const RowExplanation& known : board.explanations) {
    if (known.holds(board.rows[row.row][FigureColumn::source], setup.hardware, setup.engine, setup.model,
                    quantity_of(row.compared.name)))
      return known.text;
  }
  return "not explained";
}

// Those of each part and engine, with what is known of why.
Table worst_by_group(const PublishedBoard& board, std::size_t most) {
  std::map<std::pair<std::string, std::string>, std::vector<const BoardRow*>> groups;
  for (const BoardRow& row : board.board) {
    const PublishedSetup& setup = board.setups[row.setup];
    groups[{setup.hardware, setup.engine}].push_back(&row);
  }
  Table table{{"part", "engine profile", "line", "model", "load", "metric", "published", "predicted",
               "error %", "what is known"},
              {}};
  for (auto& [group, rows] : groups) {
    for (const BoardRow* row : worst_of(std::move(rows), most)) {
      const PublishedSetup& setup = board.setups[row->setup];
      table.rows.push_back({group.first, group.second, std::to_string(board.rows[row->row].line),
                            setup.model + ", " + setup.plan, setup.load, row->compared.name,
                            number(row->compared.measured), number(row->compared.predicted),
                            with_sign(row->compared.error_percent()), known_of(board, *row)});
    }
  }
  return table;
}

Table worst_table(const PublishedBoard& board) {
  Table table{{"line", "source", "deployment", "load", "metric", "published", "predicted", "error %",
               "device time by rung", "note of the row"},
              {}};
  for (const BoardRow* row : worst_rows(board, 10)) {
    const FigureRow& figure = board.rows[row->row];
    const PublishedSetup& setup = board.setups[row->setup];
    table.rows.push_back({std::to_string(figure.line), cut(figure[FigureColumn::source], 40),
                          setup.hardware + ", " + setup.engine + ", " + setup.model + ", " + setup.plan,
                          setup.load, row->compared.name, number(row->compared.measured),
                          number(row->compared.predicted), with_sign(row->compared.error_percent()),
                          shares(board.priced[row->setup].provenance), cut(figure[FigureColumn::note], 60)});
  }
  return table;
}

std::string names(const std::vector<std::string>& list) { return list.empty() ? "all" : join(list, ", "); }

Table bars_table(const std::vector<BarResult>& bars) {
  Table table{{"parts", "engines", "quantity", "bar %", "median abs. error %", "rows", "met"}, {}};
  for (const BarResult& r : bars)
    table.rows.push_back({names(r.bar.hardware), names(r.bar.families), r.bar.quantity,
                          fixed(r.bar.median_abs_percent), r.rows == 0 ? "–" : fixed(r.median_abs_percent),
                          std::to_string(r.rows),
                          r.rows == 0 ? "–"
                          : r.met()   ? "yes"
                                      : "no"});
  return table;
}

BoardGroup all_rows(const PublishedBoard& board) {
  BoardGroup group;
  for (const BoardRow& row : board.board) group.add(row.compared, is_scored(board, row));
  return group;
}

std::string summary(const PublishedBoard& board) {
  const BoardGroup all = all_rows(board);
  std::string text = std::to_string(board.board.size()) + " of " + std::to_string(board.rows.size()) +
                     " rows priced: median absolute error " + fixed(all.median_absolute()) +
                     " %, median error " + with_sign(all.median()) + " %";
  if (board.runs > 0)
    text += ". Of the half that no interval's width comes from (" + std::to_string(all.intervals) +
            " rows): measured value in the 90 % interval " + share(all.covered, all.intervals) +
            ", verdict inside " + share(all.inside, all.intervals) + ", uninformative " +
            share(all.uninformative, all.intervals);
  return text + ".\n";
}

Json group_json(const BoardGroup& group) {
  return {{"rows", group.errors.size()},
          {"median_abs_error_percent", group.median_absolute()},
          {"median_error_percent", group.median()},
          {"p90_abs_error_percent", group.p90_absolute()},
          {"with_interval", group.intervals},
          {"measured_in_interval", group.covered},
          {"verdict_inside", group.inside}};
}

Json row_json(const PublishedBoard& board, const BoardRow& row) {
  const FigureRow& figure = board.rows[row.row];
  const PublishedSetup& setup = board.setups[row.setup];
  const bool interval = row.interval;
  return {{"id", "line " + std::to_string(figure.line)},
          {"run", figure[FigureColumn::source] + ": " + figure[FigureColumn::locator]},
          {"metric", row.compared.name},
          {"hardware", setup.hardware},
          {"engine", setup.engine},
          {"model", setup.model},
          {"plan", setup.plan},
          {"load", setup.load},
          {"published", row.compared.measured},
          {"predicted", row.compared.predicted},
          {"low", interval ? Json(row.compared.low) : Json()},
          {"high", interval ? Json(row.compared.high) : Json()},
          {"error_percent", row.compared.error_percent()},
          {"verdict", interval ? Json(verdict(row.compared, true)) : Json()},
          {"correction", row.compared.correction.empty() ? Json() : Json(row.compared.correction)}};
}

}  // namespace

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

Json bars_json(const std::vector<BarResult>& bars) {
  Json out = Json::array();
  for (const BarResult& r : bars)
    out.push_back({{"hardware", r.bar.hardware},
                   {"engine", r.bar.families},
                   {"quantity", r.bar.quantity},
                   {"bar_percent", r.bar.median_abs_percent},
                   {"median_abs_error_percent", r.rows == 0 ? Json() : Json(r.median_abs_percent)},
                   {"rows", r.rows},
                   {"met", r.met()}});
  return out;
}

std::string bars_markdown(const std::vector<BarResult>& bars) { return markdown_of(bars_table(bars)); }

Json board_json(const PublishedBoard& board) {
  Json cases = Json::array(), parts = Json::object(), engines = Json::object(), groups = Json::array(),
       rules = Json::array(), worst = Json::array();
  for (const BoardRow& row : board.board) cases.push_back(row_json(board, row));
  for (const auto& [key, group] : group_board(
           board, [](const FigureRow&, const PublishedSetup&s, const ComparedMetric&) { return s.hardware; }))
    parts[key] = group_json(group);
  for (const auto& [key, group] : group_board(
           board, [](const FigureRow&, const PublishedSetup&s, const ComparedMetric&) { return s.engine; }))
    engines[key] = group_json(group);
  for (const auto& [key, group] : group_board(board, part_engine_metric)) {
    Json entry = group_json(group);
    const std::size_t first = key.find('\t'), second = key.find('\t', first + 1);
    entry["hardware"] = key.substr(0, first);
    entry["engine"] = key.substr(first + 1, second - first - 1);
    entry["quantity"] = key.substr(second + 1);
    groups.push_back(entry);
  }
  for (const RuleUse& use : rule_uses(board))
    rules.push_back({{"rule", to_string(use.rule)},
                     {"meaning", meaning(use.rule)},
                     {"rows", use.rows},
                     {"priced_as_if", use.as_if.errors.size()},
                     {"median_error_percent", use.as_if.errors.empty() ? Json() : Json(use.as_if.median())},
                     {"median_abs_error_percent",
                      use.as_if.errors.empty() ? Json() : Json(use.as_if.median_absolute())}});
  for (const BoardRow* row : worst_rows(board, 10)) {
    Json entry = row_json(board, *row);
    Json provenance = Json::object();
    for (const auto& [rung, part] : board.priced[row->setup].provenance) provenance[rung] = part;
    entry["provenance"] = provenance;
    entry["note"] = board.rows[row->row][FigureColumn::note];
    entry["scenario"] = board.setups[row->setup].scenario;
    worst.push_back(entry);
  }
  const BoardGroup all = all_rows(board);
  return {{"cases", cases},
          {"coverage", all.intervals == 0
                           ? Json()
                           : Json(static_cast<double>(all.covered) / static_cast<double>(all.intervals))},
          {"all", group_json(all)},
          {"by_part", parts},
          {"by_engine", engines},
          {"groups", groups},
          {"rules", rules},
          {"bars", bars_json(compare_bars(board))},
          {"worst", worst}};
}

std::string board_csv(const PublishedBoard& board) {
  std::string csv =
      "line,source,locator,hardware,engine,engine_version,model,plan,load,metric,published,predicted,low,"
      "high,"
      "error_percent,verdict,rung\n";
  for (const BoardRow& row : board.board) {
    const FigureRow& figure = board.rows[row.row];
    const PublishedSetup& setup = board.setups[row.setup];
    const ComparedMetric& m = row.compared;
    csv += std::to_string(figure.line) + ",";
    for (const std::string& cell :
         {figure[FigureColumn::source], figure[FigureColumn::locator], setup.hardware, setup.engine,
          figure[FigureColumn::engine_version], setup.model, setup.plan, setup.load, m.name})
      csv += csv_cell(cell) + ",";
    csv += format_number(m.measured) + "," + format_fixed(m.predicted, 4) + ",";
    csv += row.interval ? format_fixed(m.low, 4) + "," + format_fixed(m.high, 4) : std::string(",");
    csv += "," + format_fixed(m.error_percent(), 2) + "," + verdict(m, row.interval) + "," +
           csv_cell(shares(board.priced[row.setup].provenance)) + "\n";
  }
  return csv;
}

std::string left_out_csv(const PublishedBoard& board) {
  std::string csv = "line,rule,why,error_percent_as_if\n";
  for (const LeftOutRow& row : board.left_out) {
    csv += std::to_string(board.rows[row.row].line) + "," + to_string(row.rule) + "," + csv_cell(row.why) +
           "," + (row.error_percent ? format_fixed(*row.error_percent, 2) : std::string()) + "\n";
  }
  return csv;
}

std::string board_text(const PublishedBoard& board) {
  std::string text = summary(board) + "\n";
  text +=
      text_of(groups_table(group_board(board, part_engine_metric), {"part", "engine", "quantity"})) + "\n";
  text += text_of(rules_table(board)) + "\n" + text_of(bars_table(compare_bars(board))) +
          "\nThe ten furthest off:\n" + text_of(worst_table(board));
  return text;
}

std::string board_markdown(const PublishedBoard& board) {
  std::string text =
      "# Published figures\n\nMade by `orrery validate --published FILE.csv`; definitions and rules: "
      "docs/validation.md. Error = predicted ÷ published − 1.\nNothing of Orrery was fitted to any of these "
      "rows: vllm-0.5 and vllm-0.5-rocm were made from rows of one model that are left out. An interval "
      "holds the doubt about prices and host times, moved by what one half of the cases says of "
      "it "
      "(docs/validation.md);\n\"inside\" counts the other half only.\n\n";
  text += summary(board) + "\n## Part, engine, quantity\n\n" +
          markdown_of(
              groups_table(group_board(board, part_engine_metric), {"part", "engine profile", "quantity"}));
  text += "\n## Targets\n\n" + markdown_of(bars_table(compare_bars(board)));
  text += "\n## Rows left out\n\n" + markdown_of(rules_table(board));
  text += "\n## By source\n\n" +
          markdown_of(groups_table(group_board(board, source_metric), {"source", "part", "quantity"}));
  text += "\n## By load (requests in flight, batch)\n\n" +
          markdown_of(groups_table(group_board(board, load_metric), {"part", "quantity", "load"}));
  text += "\n## By model\n\n" + markdown_of(groups_table(group_board(board, model_engine),
                                                         {"model", "part", "engine profile", "quantity"}));
  text += "\n## The ten furthest off\n\nOne row of a run.\n\n" + markdown_of(worst_table(board));
  text +=
      "\n## The ten furthest off of each part and engine\n\nOne row of a run; what is known stands in "
      "`explanations` of the import rules.\n\n" +
      markdown_of(worst_by_group(board, 10));
  return text;
}

}  // namespace orrery
