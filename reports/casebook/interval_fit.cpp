#include "reports/casebook/interval_fit.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "base/det_math.h"
#include "base/json.h"
#include "reports/casebook/engine_run.h"

namespace orrery {

namespace {

struct Pool {
  std::vector<const ComparedMetric*> figures;
  std::set<std::string> cases;
};

// The smallest value that a further figure's lies at or below in 1 − `share` of all chances, by
// exchangeability.
double upper_quantile(const std::vector<double>& sorted, double share) {
  const auto n = static_cast<double>(sorted.size());
  const auto rank = static_cast<std::size_t>(std::ceil((1 - share) * (n + 1) - 1e-9));
  return sorted[std::min(rank, sorted.size()) - 1];
}

// Three digits: what a correction can claim, and the same in the file as in memory.
double rounded(double value) { return std::round(value * 1000) / 1000; }

// Sets the pool's ends.
void fit_ends(const std::vector<const ComparedMetric*>& figures, IntervalPool& pool) {
  std::vector<double> beyond_low, beyond_high;
  for (const ComparedMetric* m : figures) {
    beyond_low.push_back(det_log(m->prices_low / m->measured));
    beyond_high.push_back(det_log(m->measured / m->prices_high));
  }
  std::sort(beyond_low.begin(), beyond_low.end());
  std::sort(beyond_high.begin(), beyond_high.end());
  double shortest = 0;
  for (int step = 5; step <= 15; ++step) {
    const double share = 0.005 * step;
    IntervalPool tried = pool;
    tried.low = rounded(upper_quantile(beyond_low, share));
    tried.high = rounded(upper_quantile(beyond_high, 0.1 - share));
    double width = 0;
    for (const ComparedMetric* m : figures) {
      double low = m->prices_low, high = m->prices_high;
      correct_bounds(tried, m->predicted, low, high);
      width += (high - low) / m->predicted;
    }
    if (step > 5 && width >= shortest) continue;
    shortest = width;
    pool = tried;
  }
}

}  // namespace

IntervalCorrections fit_intervals(const std::vector<ScoreRow>& rows, std::vector<LoggedEngine> measured) {
  IntervalCorrections out;
  out.measured = std::move(measured);
  std::map<std::tuple<std::string, std::string, std::string, std::string>, Pool> pools;
  for (const ScoreRow& row : rows) {
    if (!row.interval || !row.pooled || !is_fitted_half(row.group) || out.was_measured(row.evidence))
      continue;
    const std::string quantity = quantity_of(row.metric.name), family = engine_family(row.evidence.engine);
    const auto add = [&](const std::string& rung, const std::string& part, const std::string& engine) {
      Pool& pool = pools[{quantity, rung, part, engine}];
      pool.figures.push_back(&row.metric);
      pool.cases.insert(row.group);
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
    fit_ends(figures.figures, pool);
    out.pools.push_back(std::move(pool));
  }
  return out;
}

Result<std::vector<LoggedEngine>> logged_engines() {
  ORRERY_TRY(runs, list_engine_runs());
  std::set<std::pair<std::string, std::string>> found;
  // Every run of that list is one of vLLM 0.24 (case_of).
  for (const EngineRun& run : runs) found.emplace(run.hardware, own_engine);
  std::vector<LoggedEngine> out;
  for (const auto& [part, engine] : found) out.push_back({part, engine});
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
  text +=
      "# Compared with step logs of ours (reports/cases/engine_runs.yaml): intervals stand as they are.\n";
  text += corrections.measured.empty() ? "measured: []\n" : "measured:\n";
  for (const LoggedEngine& m : corrections.measured)
    text += "  - {part: " + m.part + ", engine: " + m.engine + "}\n";
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
