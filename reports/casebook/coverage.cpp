#include "reports/casebook/coverage.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "base/statistics.h"
#include "base/text.h"
#include "reports/casebook/interval_fit.h"

namespace orrery {

namespace {

using Key = std::tuple<std::string, std::string, std::string, std::string>;

void add(const ScoreRow& row, CoverageCell& cell) {
  const ComparedMetric& m = row.metric;
  ++cell.rows;
  cell.covered += m.inside();
  cell.covered_by_prices += m.prices_low <= m.measured && m.measured <= m.prices_high;
  const double half = (m.high - m.low) / 2 / m.predicted;
  cell.uninformative += half > most_half_width;
  cell.half_widths.push_back(half);
}

std::vector<CoverageCell> cells_of(const std::map<Key, CoverageCell>& cells) {
  std::vector<CoverageCell> out;
  for (const auto& [key, cell] : cells) {
    out.push_back(cell);
    std::tie(out.back().quantity, out.back().rung, out.back().part, out.back().engine) = key;
  }
  return out;
}

std::string percent(double share) { return format_fixed(100 * share, 1) + " %"; }
std::string percent(std::size_t k, std::size_t n) {
  return percent(static_cast<double>(k) / static_cast<double>(n));
}

// "91.3 %" of many, "12 of 14 (60 … 96 %)" of few.
std::string share_text(std::size_t k, std::size_t n) {
  if (n >= least_pool_rows) return percent(k, n);
  const ShareRange range = wilson(k, n);
  return std::to_string(k) + " of " + std::to_string(n) + " (" + format_fixed(100 * range.low, 0) + " … " +
         format_fixed(100 * range.high, 0) + " %)";
}

Json cells_json(const std::vector<CoverageCell>& cells) {
  Json out = Json::array();
  for (const CoverageCell& c : cells) {
    const ShareRange range = wilson(c.covered, c.rows);
    Json cell = {{"quantity", c.quantity}};
    if (!c.rung.empty()) cell["rung"] = c.rung;
    if (!c.part.empty()) cell["part"] = c.part;
    if (!c.engine.empty()) cell["engine"] = c.engine;
    cell["rows"] = c.rows;
    cell["covered"] = c.covered;
    cell["wilson_95"] = {range.low, range.high};
    cell["covered_by_prices_alone"] = c.covered_by_prices;
    cell["median_half_width"] = c.median_half_width();
    cell["uninformative"] = c.uninformative;
    out.push_back(cell);
  }
  return out;
}

std::string table(const std::vector<CoverageCell>& cells) {
  std::string out =
      "| quantity | rung | part, engine | figures | in the 90 % interval | median half-width | too wide to "
      "say | in that of prices "
      "alone |\n|---|---|---|--:|--:|--:|--:|--:|\n";
  for (const CoverageCell& c : cells) {
    out += "| " + c.quantity + " | " + (c.rung.empty() ? "all" : c.rung) + " | " +
           (c.part.empty() ? "all" : c.part + ", " + c.engine) + " | " + std::to_string(c.rows) + " | " +
           share_text(c.covered, c.rows) + " | " + percent(c.median_half_width()) + " | " +
           percent(c.uninformative, c.rows) + " | " + percent(c.covered_by_prices, c.rows) + " |\n";
  }
  return out;
}

}  // namespace

double CoverageCell::median_half_width() const {
  std::vector<double> sorted = half_widths;
  std::sort(sorted.begin(), sorted.end());
  return sorted.empty() ? 0 : linear_percentile(sorted, 50);
}

ShareRange wilson(std::size_t k, std::size_t n) {
  if (n == 0) return {};
  constexpr double z = 1.959964;
  const auto all = static_cast<double>(n);
  const double p = static_cast<double>(k) / all, scale = 1 + z * z / all;
  const double middle = p + z * z / (2 * all),
               half = z * std::sqrt(p * (1 - p) / all + z * z / (4 * all * all));
  return {std::max(0.0, (middle - half) / scale), std::min(1.0, (middle + half) / scale)};
}

Coverage coverage_of(const std::vector<ScoreRow>& rows) {
  std::map<Key, CoverageCell> quantity, tables, rung, part;
  for (const ScoreRow& row : rows) {
    if (!row.interval || !row.pooled || is_fitted_half(row.group)) continue;
    const std::string q = quantity_of(row.metric.name), family = engine_family(row.evidence.engine);
    const std::string& r = row.evidence.rung;
    add(row, quantity[{q, "", "", ""}]);
    add(row, tables[{q, row.evidence.tables >= stands_on_tables ? "tables" : "less than that", "", ""}]);
    add(row, rung[{q, r, "", ""}]);
    if (!row.evidence.part.empty()) add(row, part[{q, r, row.evidence.part, family}]);
  }
  return {cells_of(quantity), cells_of(tables), cells_of(rung), cells_of(part)};
}

Json coverage_json(const Coverage& coverage) {
  return {{"by_quantity", cells_json(coverage.by_quantity)},
          {"by_tables", cells_json(coverage.by_tables)},
          {"by_rung", cells_json(coverage.by_rung)},
          {"by_part", cells_json(coverage.by_part)}};
}

std::string coverage_markdown(const Coverage& coverage, const IntervalCorrections& corrections) {
  std::string out =
      "Of the half of the cases that no width comes from (a case is a run with all its figures: part, "
      "engine, model, plan, load;\n"
      "the halves are fixed by the hash of its name). Cells with fewer than " +
      std::to_string(least_pool_rows) +
      " figures say k of n, with Wilson's 95 % interval over figures (those of one\ncase are alike: it is "
      "too narrow). \"Too wide to say\": half-width above a quarter of "
      "the prediction, whether it covers or not.\n\n" +
      table(coverage.by_quantity) +
      "\nPrices that stand on tables: measured and published ones make up nine tenths of the device "
      "time.\n\n" +
      table(coverage.by_tables) + "\n" + table(coverage.by_rung) + "\n" + table(coverage.by_part);
  out +=
      "\nWhere the ends lie (reports/cases/interval_corrections.yaml), from the other half:\n\n"
      "| pool | figures | cases | low end | high end |\n|---|--:|--:|--:|--:|\n";
  const auto end = [](double scatters) { return (scatters >= 0 ? "+" : "") + format_fixed(scatters, 2); };
  for (const IntervalPool& p : corrections.pools)
    out += "| " + p.name() + " | " + std::to_string(p.rows) + " | " + std::to_string(p.cases) + " | " +
           end(-p.low) + " | " + end(p.high) + " |\n";
  return out + "\nIn scatters of a figure's region from that region's centre (" +
         std::to_string(corrections.regions.size()) +
         " regions stand in the file); the prediction stays between the ends.\n";
}

std::string coverage_text(const Coverage& coverage) {
  TextTable text(
      {"quantity", "rung", "figures", "in the 90 % interval", "median half-width", "too wide to say"});
  std::vector<CoverageCell> cells = coverage.by_tables;
  cells.insert(cells.end(), coverage.by_rung.begin(), coverage.by_rung.end());
  for (const CoverageCell& c : cells)
    text.add({c.quantity, c.rung, std::to_string(c.rows), share_text(c.covered, c.rows),
              percent(c.median_half_width()), percent(c.uninformative, c.rows)});
  return "Intervals, on the half of the cases that no width comes from:\n" + text.to_string();
}

}  // namespace orrery
