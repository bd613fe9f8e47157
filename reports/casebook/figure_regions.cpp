#include "reports/casebook/figure_regions.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/det_math.h"
#include "base/text.h"

namespace orrery {

namespace {

struct Weighted {
  double value = 0, weight = 0;
};

// The smallest value at or below which `share` of the weight lies; `sorted` is not empty.
double quantile(const std::vector<Weighted>& sorted, double share) {
  double all = 0, below = 0;
  for (const Weighted& w : sorted) all += w.weight;
  for (const Weighted& w : sorted) {
    below += w.weight;
    if (below >= share * all - 1e-9) return w.value;
  }
  return sorted.back().value;
}

double drawn(double own, double around, double cases) {
  return (cases * own + weight_around * around) / (cases + weight_around);
}

}  // namespace

void FigureRegions::add(const ScoreRow& row) {
  const std::size_t of_case = cases_.emplace(row.group, cases_.size()).first->second;
  const double off = det_log(row.metric.measured / row.metric.predicted);
  std::vector<std::string> path = region_path(row.metric.name, row.evidence);
  for (;; path.pop_back()) {
    Region& region = regions_[path];
    region.figures.push_back({off, of_case});
    ++region.of_cases[of_case];
    if (path.empty()) return;
  }
}

void FigureRegions::close() {
  for (auto& [path, region] : regions_)
    std::stable_sort(region.figures.begin(), region.figures.end(),
                     [](const Figure& a, const Figure& b) { return a.off < b.off; });
}

void FigureRegions::draw(const Region& region, std::size_t left_out, IntervalRegion& estimate) const {
  std::vector<Weighted> values;
  for (const Figure& f : region.figures) {
    if (f.of_case != left_out)
      values.push_back({f.off, 1 / static_cast<double>(region.of_cases.at(f.of_case))});
  }
  const auto rows = static_cast<std::int64_t>(values.size());
  if (rows == 0 || rows == estimate.rows) return;
  const std::size_t cases = region.of_cases.size() - region.of_cases.count(left_out);
  const bool widest = estimate.rows == 0;
  const auto n = static_cast<double>(cases);
  const double centre = quantile(values, 0.5);
  estimate.centre = widest ? centre : drawn(centre, estimate.centre, n);
  for (Weighted& w : values) w.value = std::abs(w.value - estimate.centre);
  std::stable_sort(values.begin(), values.end(),
                   [](const Weighted& a, const Weighted& b) { return a.value < b.value; });
  const double spread = quantile(values, near_share);
  estimate.spread = widest ? spread : drawn(spread, estimate.spread, n);
  estimate.rows = rows;
  estimate.cases = static_cast<std::int64_t>(cases);
}

IntervalRegion FigureRegions::estimate(const std::vector<std::string>& path, std::size_t left_out) const {
  IntervalRegion out;
  std::vector<std::string> at;
  for (std::size_t depth = 0;; ++depth) {
    if (const auto found = regions_.find(at); found != regions_.end()) draw(found->second, left_out, out);
    if (depth == path.size()) return out;
    at.push_back(path[depth]);
  }
}

IntervalRegion FigureRegions::without_its_case(const ScoreRow& row) const {
  const auto known = cases_.find(row.group);
  return estimate(region_path(row.metric.name, row.evidence),
                  known == cases_.end() ? no_case : known->second);
}

void FigureRegions::append(std::map<std::string, IntervalRegion>& out) const {
  for (const auto& [path, region] : regions_) {
    IntervalRegion own = estimate(path, no_case);
    std::vector<std::string> around = path;
    bool repeats = false;
    if (!around.empty()) {
      around.pop_back();
      repeats = regions_.at(around).figures.size() == region.figures.size();
    }
    if (repeats) continue;
    own.centre = std::round(own.centre * 1000) / 1000;
    own.spread = std::ceil(own.spread * 1000 - 1e-9) / 1000;
    out.emplace(quantity_ + (path.empty() ? "" : ", " + join(path, ", ")), own);
  }
}

}  // namespace orrery
