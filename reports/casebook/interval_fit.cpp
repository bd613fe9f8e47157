#include "reports/casebook/interval_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/det_math.h"
#include "base/json.h"
#include "reports/casebook/figure_regions.h"

namespace orrery {

namespace {

// A figure of the fitted half, and how it lies to a region that it has no part in.
struct Placed {
  const ScoreRow* row = nullptr;
  double centre = 0, scatter = 0;
};

struct Pool {
  std::vector<const Placed*> figures;
  std::set<std::string> cases;
};

// The smallest value that a figure of a further case lies at or below in 1 − `share` of all chances, of n
// cases with figures alike. None: so few cases cannot say it.
std::optional<double> upper_quantile(const std::vector<double>& sorted, double n, double share) {
  const double of_all = (1 - share) * (n + 1) / n * static_cast<double>(sorted.size());
  const auto rank = static_cast<std::size_t>(std::ceil(of_all - 1e-9));
  if (rank > sorted.size()) return std::nullopt;
  return sorted[rank - 1];
}

// Three digits, outwards: what a correction can claim, and the same in the file as in memory.
double rounded_up(double value) { return std::ceil(value * 1000 - 1e-9) / 1000; }

// Sets the pool's ends; false when it has too few cases.
bool fit_ends(const Pool& figures, IntervalPool& pool) {
  std::vector<double> beyond_low, beyond_high;
  for (const Placed* f : figures.figures) {
    const double off = det_log(f->row->metric.measured / f->row->metric.predicted);
    beyond_low.push_back((f->centre - off) / f->scatter);
    beyond_high.push_back((off - f->centre) / f->scatter);
  }
  std::sort(beyond_low.begin(), beyond_low.end());
  std::sort(beyond_high.begin(), beyond_high.end());
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
    for (const Placed* f : figures.figures) {
      double low = 0, high = 0;
      correct_bounds(tried, f->centre, f->scatter, 1, low, high);
      width += high - low;
    }
    if (shortest && width >= *shortest) continue;
    shortest = width;
    pool = tried;
  }
  return shortest.has_value();
}

using Pools = std::map<std::tuple<std::string, std::string, std::string>, Pool>;  // rung, part, family

// Pools by part and engine hold `quantity` alone: where figures are few another one's tail would be all of
// it.
Pools pools_of(const std::string& quantity, const std::vector<Placed>& figures) {
  Pools pools;
  for (const Placed& f : figures) {
    const PriceEvidence& e = f.row->evidence;
    const auto add = [&](const std::string& rung, const std::string& part, const std::string& engine) {
      Pool& pool = pools[{rung, part, engine}];
      pool.figures.push_back(&f);
      pool.cases.insert(f.row->group);
    };
    add("", "", "");
    add(e.rung, "", "");
    if (!e.part.empty() && !e.engine.empty() && quantity_of(f.row->metric.name) == quantity)
      add(e.rung, e.part, engine_family(e.engine));
  }
  return pools;
}

using Quantities = std::map<std::string, std::vector<const ScoreRow*>>;

// Of one pool's quantity, or several.
void fit_pools(const std::string& name, const Quantities& quantities, IntervalCorrections& out) {
  std::map<std::string, IntervalRegion> listed;
  std::vector<Placed> placed;
  for (const auto& [quantity, rows] : quantities) {
    FigureRegions regions(quantity);
    for (const ScoreRow* row : rows) regions.add(*row);
    regions.close();
    for (const ScoreRow* row : rows) {
      const IntervalRegion at = regions.without_its_case(*row);
      const ComparedMetric& m = row->metric;
      placed.push_back({row, at.centre, scatter_of(at.spread, m.prices_low, m.prices_high)});
    }
    regions.append(listed);
  }
  const std::size_t before = out.pools.size();
  for (const auto& [key, figures] : pools_of(name, placed)) {
    if (figures.figures.size() < least_pool_rows || figures.cases.size() < least_pool_cases) continue;
    const auto& [rung, part, engine] = key;
    IntervalPool pool{name, rung, part, engine};
    pool.rows = static_cast<std::int64_t>(figures.figures.size());
    pool.cases = static_cast<std::int64_t>(figures.cases.size());
    if (fit_ends(figures, pool)) out.pools.push_back(std::move(pool));
  }
  if (out.pools.size() > before) out.regions.merge(listed);
}

// Of block counts the plan's own deviations say what scatters; both ends are alike, for cases are few. Each
// case is one voice, that of its figure furthest off.
CapacityPool fit_capacity(const std::vector<const ScoreRow*>& rows) {
  CapacityPool pool;
  std::map<std::string, double> furthest;
  for (const ScoreRow* row : rows) {
    const ComparedMetric& m = row->metric;
    const double deviation = (m.prices_high - m.prices_low) / 2 / normal_deviations;
    if (deviation <= 0) continue;  // the blocks were given
    ++pool.rows;
    double& most = furthest[row->group];
    most = std::max(most, std::abs(m.measured - m.predicted) / deviation);
  }
  std::vector<double> off;
  for (const auto& [name, most] : furthest) off.push_back(most);
  std::sort(off.begin(), off.end());
  pool.cases = static_cast<std::int64_t>(off.size());
  const std::optional<double> end = upper_quantile(off, static_cast<double>(off.size()), 0.1);
  if (!end) return {};
  pool.deviations = rounded_up(*end);
  return pool;
}

}  // namespace

IntervalCorrections fit_intervals(const std::vector<ScoreRow>& rows) {
  std::map<std::string, Quantities> pools;
  std::vector<const ScoreRow*> capacities;
  for (const ScoreRow& row : rows) {
    if (!row.interval || !row.pooled || !is_fitted_half(row.group)) continue;
    if (row.metric.name == capacity_metric)
      capacities.push_back(&row);
    else
      pools[pool_quantity_of(row.metric.name)][quantity_of(row.metric.name)].push_back(&row);
  }
  IntervalCorrections out;
  for (const auto& [name, quantities] : pools) fit_pools(name, quantities, out);
  out.capacity = fit_capacity(capacities);
  return out;
}

std::string corrections_yaml(const IntervalCorrections& corrections, const std::vector<FitInput>& inputs) {
  std::string text =
      "# How far the ends of 90 % intervals move, by what figures of others say of them (docs/validation.md, "
      "\"Intervals\n"
      "# that hold\"). Made by `orrery validate --fit-intervals`, not by hand. A region: how far "
      "figures lay from\n# the prediction (centre) and how much they scatter (spread), as logarithms; a "
      "pool: "
      "how many scatters below\n# and above the centre its ends lie; rows, cases: of the fitted half.\n";
  text += inputs.empty() ? "inputs: []\n" : "inputs:\n";
  for (const FitInput& input : inputs)
    text += "  - {file: " + input.file + ", digest: \"" + input.digest + "\"}\n";
  if (const CapacityPool& c = corrections.capacity; c.rows > 0)
    text += "capacity: {rows: " + std::to_string(c.rows) + ", cases: " + std::to_string(c.cases) +
            ", deviations: " + format_number(c.deviations) + "}\n";
  text += corrections.pools.empty() ? "pools: []\n" : "pools:\n";
  for (const IntervalPool& pool : corrections.pools) {
    text += "  - {quantity: " + pool.quantity;
    if (!pool.rung.empty()) text += ", rung: " + pool.rung;
    if (!pool.part.empty()) text += ", part: " + pool.part + ", engine: " + pool.engine;
    text += ", rows: " + std::to_string(pool.rows) + ", cases: " + std::to_string(pool.cases) +
            ", low: " + format_number(pool.low) + ", high: " + format_number(pool.high) + "}\n";
  }
  text += corrections.regions.empty() ? "regions: []\n" : "regions:\n";
  for (const auto& [name, region] : corrections.regions)
    text += "  - {of: \"" + name + "\", rows: " + std::to_string(region.rows) +
            ", cases: " + std::to_string(region.cases) + ", centre: " + format_number(region.centre) +
            ", spread: " + format_number(region.spread) +
            (region.outside > 0 ? ", outside: " + format_number(region.outside) : "") + "}\n";
  return text;
}

}  // namespace orrery
