#include "reports/casebook/interval_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <tuple>

#include "base/det_math.h"
#include "base/json.h"

namespace orrery {

namespace {

struct Pool {
  std::vector<const ScoreRow*> figures;
  std::map<std::string, std::size_t> cases;  // figures of each
};

struct Weighted {
  double value = 0, weight = 0;
};

// The smallest value that a figure of a further case lies at or below in 1 − `share` of all chances, by
// exchangeability of the n cases, each of weight 1. None: so few cases cannot say it.
std::optional<double> upper_quantile(const std::vector<Weighted>& sorted, double n, double share) {
  double below = 0;
  for (const Weighted& w : sorted) {
    below += w.weight;
    if (below >= (1 - share) * (n + 1) - 1e-9) return w.value;
  }
  return std::nullopt;
}

// Three digits, outwards: what a correction can claim, and the same in the file as in memory.
double rounded_up(double value) { return std::ceil(value * 1000 - 1e-9) / 1000; }

// Sets the pool's ends; false when it has too few cases.
bool fit_ends(const Pool& figures, IntervalPool& pool) {
  std::vector<Weighted> beyond_low, beyond_high;
  for (const ScoreRow* row : figures.figures) {
    const ComparedMetric& m = row->metric;
    const double weight = 1 / static_cast<double>(figures.cases.at(row->group));
    beyond_low.push_back({det_log(m.prices_low / m.measured), weight});
    beyond_high.push_back({det_log(m.measured / m.prices_high), weight});
  }
  const auto less = [](const Weighted& a, const Weighted& b) { return a.value < b.value; };
  std::stable_sort(beyond_low.begin(), beyond_low.end(), less);
  std::stable_sort(beyond_high.begin(), beyond_high.end(), less);
  const auto n = static_cast<double>(figures.cases.size());
  std::optional<double> shortest;
  for (int step = 5; step <= 15; ++step) {
    const double share = 0.005 * step;
    const std::optional<double> low_end = upper_quantile(beyond_low, n, share),
                                high_end = upper_quantile(beyond_high, n, 0.1 - share);
    if (!low_end || !high_end) continue;
    IntervalPool tried = pool;
    tried.low = rounded_up(*low_end);
    tried.high = rounded_up(*high_end);
    double width = 0;
    for (const ScoreRow* row : figures.figures) {
      const ComparedMetric& m = row->metric;
      double low = m.prices_low, high = m.prices_high;
      correct_bounds(tried, m.predicted, low, high);
      width += (high - low) / m.predicted / static_cast<double>(figures.cases.at(row->group));
    }
    if (shortest && width >= *shortest) continue;
    shortest = width;
    pool = tried;
  }
  return shortest.has_value();
}

}  // namespace

IntervalCorrections fit_intervals(const std::vector<ScoreRow>& rows) {
  IntervalCorrections out;
  std::map<std::tuple<std::string, std::string, std::string, std::string>, Pool> pools;
  for (const ScoreRow& row : rows) {
    if (!row.interval || !row.pooled || !is_fitted_half(row.group)) continue;
    const std::string quantity = quantity_of(row.metric.name), family = engine_family(row.evidence.engine);
    const auto add = [&](const std::string& rung, const std::string& part, const std::string& engine) {
      Pool& pool = pools[{quantity, rung, part, engine}];
      pool.figures.push_back(&row);
      ++pool.cases[row.group];
    };
    add("", "", "");
    add(row.evidence.rung, "", "");
    if (!row.evidence.part.empty() && !row.evidence.engine.empty())
      add(row.evidence.rung, row.evidence.part, family);
  }
  for (const auto& [key, figures] : pools) {
    if (figures.figures.size() < least_pool_rows || figures.cases.size() < least_pool_cases) continue;
    const auto& [quantity, rung, part, engine] = key;
    IntervalPool pool{quantity,
                      rung,
                      part,
                      engine,
                      static_cast<std::int64_t>(figures.figures.size()),
                      static_cast<std::int64_t>(figures.cases.size()),
                      0,
                      0};
    if (!fit_ends(figures, pool)) continue;
    out.pools.push_back(std::move(pool));
  }
  return out;
}

std::string corrections_yaml(const IntervalCorrections& corrections, const std::vector<FitInput>& inputs) {
  std::string text =
      "# How far the ends of 90 % intervals move, by what figures of others say of them (docs/validation.md, "
      "\"Intervals\n"
      "# that hold\"). Made by `orrery validate --fit-intervals`, not by hand. low, high: logarithms, low "
      "end · exp(−low),\n"
      "# high end · exp(high); rows, cases: of the fitted half.\n";
  text += inputs.empty() ? "inputs: []\n" : "inputs:\n";
  for (const FitInput& input : inputs)
    text += "  - {file: " + input.file + ", digest: \"" + input.digest + "\"}\n";
  text += corrections.pools.empty() ? "pools: []\n" : "pools:\n";
  for (const IntervalPool& pool : corrections.pools) {
    text += "  - {quantity: " + pool.quantity;
    if (!pool.rung.empty()) text += ", rung: " + pool.rung;
    if (!pool.part.empty()) text += ", part: " + pool.part + ", engine: " + pool.engine;
    text += ", rows: " + std::to_string(pool.rows) + ", cases: " + std::to_string(pool.cases) +
            ", low: " + format_number(pool.low) + ", high: " + format_number(pool.high) + "}\n";
  }
  return text;
}

}  // namespace orrery
