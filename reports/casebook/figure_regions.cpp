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

double drawn(double own, double around, double cases, double weight_around) {
  return (cases * own + weight_around * around) / (cases + weight_around);
}

}  // namespace

void FigureRegions::add(const ScoreRow& row) {
  const std::size_t of_case = cases_.emplace(row.group, cases_.size()).first->second;
  const Figure figure{det_log(row.metric.measured / row.metric.predicted), of_case};
  Path path = region_path(row.metric.name, row.evidence);
  placed_.push_back({path, figure});
  for (;; path.pop_back()) {
    Region& region = regions_[path];
    region.figures.push_back(figure);
    ++region.of_cases[of_case];
    if (path.empty()) return;
  }
}

void FigureRegions::close() {
  const auto by_value = [](const Figure& a, const Figure& b) { return a.value < b.value; };
  for (auto& [path, region] : regions_)
    std::stable_sort(region.figures.begin(), region.figures.end(), by_value);
  for (const Placed& p : placed_) {
    IntervalRegion unused;
    const double centre = ask(centres, p.path, p.figure.of_case, unused);
    Path path = p.path;
    for (;; path.pop_back()) {
      regions_.at(path).distances.push_back({std::abs(p.figure.value - centre), p.figure.of_case});
      if (path.empty()) break;
    }
  }
  for (auto& [path, region] : regions_)
    std::stable_sort(region.distances.begin(), region.distances.end(), by_value);
}

double FigureRegions::ask(const Question& question, const Path& path, std::size_t left_out,
                          IntervalRegion& out) const {
  double answer = 0;
  Path at;
  for (std::size_t depth = 0;; ++depth) {
    const auto found = regions_.find(at);
    std::vector<Weighted> values;
    if (found != regions_.end()) {
      const Region& region = found->second;
      for (const Figure& f : region.*question.values) {
        if (f.of_case != left_out)
          values.push_back({f.value, 1 / static_cast<double>(region.of_cases.at(f.of_case))});
      }
      const auto rows = static_cast<std::int64_t>(values.size());
      if (rows > 0 && rows != out.rows) {
        const std::size_t cases = region.of_cases.size() - region.of_cases.count(left_out);
        const double own = quantile(values, question.share);
        answer = out.rows == 0 ? own : drawn(own, answer, static_cast<double>(cases), question.around);
        out.rows = rows;
        out.cases = static_cast<std::int64_t>(cases);
      }
    }
    if (depth == path.size()) return answer;
    at.push_back(path[depth]);
  }
}

IntervalRegion FigureRegions::estimate(const Path& path, std::size_t left_out) const {
  IntervalRegion out, same;
  out.centre = ask(centres, path, left_out, out);
  out.spread = ask(spreads, path, left_out, same);
  return out;
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
