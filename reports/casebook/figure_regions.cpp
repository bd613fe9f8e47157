#include "reports/casebook/figure_regions.h"

#include <algorithm>
#include <cmath>

#include "base/det_math.h"
#include "base/text.h"

namespace orrery {

// The smallest value at or below which `share` of the weight lies; `sorted` is not empty.
double FigureRegions::quantile(const std::vector<Weighted>& sorted, double share) {
  double all = 0, below = 0;
  for (const Weighted& w : sorted) all += w.weight;
  for (const Weighted& w : sorted) {
    below += w.weight;
    if (below >= share * all - 1e-9) return w.value;
  }
  return sorted.back().value;
}

std::vector<FigureRegions::Weighted> FigureRegions::kept(const Region& region,
                                                         const std::vector<Figure>& figures, LeftOut left) {
  std::vector<Weighted> out;
  for (const Figure& f : figures) {
    if (!left.holds(f.of_case)) out.push_back({f.value, region.weight(f.of_case)});
  }
  return out;
}

void FigureRegions::add(const ScoreRow& row) {
  const std::size_t of_case = cases_.emplace(row.group, cases_.size()).first->second;
  const Figure figure{det_log(row.metric.measured / row.metric.predicted), of_case};
  Path path = region_path(row.metric.name, row.evidence);
  placed_.push_back({path, figure});
  for (;; path.pop_back()) {
    Region& region = regions_[path];
    region.figures.push_back(figure);
    region.placed.push_back(placed_.size() - 1);
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
    const double distance = std::abs(p.figure.value - centre(p.path, {p.figure.of_case}, unused));
    Path path = p.path;
    for (;; path.pop_back()) {
      regions_.at(path).distances.push_back({distance, p.figure.of_case});
      if (path.empty()) break;
    }
  }
  for (auto& [path, region] : regions_)
    std::stable_sort(region.distances.begin(), region.distances.end(), by_value);
}

double FigureRegions::walk(const Question& question, const Path& path, LeftOut left,
                           const std::function<std::vector<Weighted>(const Region&)>& values,
                           IntervalRegion& out) const {
  double answer = 0;
  Path at;
  for (std::size_t depth = 0;; ++depth) {
    if (const auto found = regions_.find(at); found != regions_.end()) {
      const Region& region = found->second;
      std::size_t cases = region.of_cases.size(), rows = region.figures.size();
      for (const std::size_t one : {left.one, left.other}) {
        const auto in = region.of_cases.find(one);
        if (in == region.of_cases.end()) continue;
        --cases;
        rows -= in->second;
      }
      if (rows > 0 && static_cast<std::int64_t>(rows) != out.rows) {
        const auto n = static_cast<double>(cases);
        const double own = quantile(values(region), question.share);
        answer = out.rows == 0 ? own : (n * own + question.around * answer) / (n + question.around);
        out.rows = static_cast<std::int64_t>(rows);
        out.cases = static_cast<std::int64_t>(cases);
      }
    }
    if (depth == path.size()) return answer;
    at.push_back(path[depth]);
  }
}

double FigureRegions::centre(const Path& path, LeftOut left, IntervalRegion& out) const {
  return walk(
      {0.5, centre_around}, path, left,
      [&](const Region& region) { return kept(region, region.figures, left); }, out);
}

double FigureRegions::spread(const Path& path, std::size_t left_out) const {
  const LeftOut left{left_out};
  IntervalRegion unused;
  return walk(
      {near_share, spread_around}, path, left,
      [&](const Region& region) {
        if (region.placed.size() > few_figures || !region.of_cases.contains(left_out))
          return kept(region, region.distances, left);
        std::vector<Weighted> out;
        for (const std::size_t i : region.placed) {
          const Figure& f = placed_[i].figure;
          if (f.of_case == left_out) continue;
          IntervalRegion same;
          const double other = centre(placed_[i].path, {f.of_case, left_out}, same);
          out.push_back({std::abs(f.value - other), region.weight(f.of_case)});
        }
        std::stable_sort(out.begin(), out.end(),
                         [](const Weighted& a, const Weighted& b) { return a.value < b.value; });
        return out;
      },
      unused);
}

IntervalRegion FigureRegions::estimate(const Path& path, std::size_t left_out) const {
  IntervalRegion out;
  out.centre = centre(path, {left_out}, out);
  out.spread = spread(path, left_out);
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
