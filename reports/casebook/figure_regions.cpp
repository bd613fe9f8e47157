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
  for (const auto& [path, region] : regions_) {
    if (path.size() < model_depth) measure_outside(path, outside_[path]);
  }
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
      const auto leave = [&](std::size_t one) {
        const auto in = region.of_cases.find(one);
        if (in == region.of_cases.end()) return;
        --cases;
        rows -= in->second;
      };
      leave(left.one);
      leave(left.other);
      if (left.many != nullptr) std::for_each(left.many->begin(), left.many->end(), leave);
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

double FigureRegions::Outside::of(const std::string& but) const {
  std::vector<Weighted> all;
  std::size_t parts = 0;
  for (const auto& [name, part] : distances) {
    if (name == but) continue;
    ++parts;
    all.insert(all.end(), part.begin(), part.end());
  }
  if (parts < 2) return 0;
  std::stable_sort(all.begin(), all.end(),
                   [](const Weighted& a, const Weighted& b) { return a.value < b.value; });
  return quantile(all, outside_share);
}

void FigureRegions::measure_outside(const Path& path, Outside& out) const {
  const Region& region = regions_.at(path);
  std::map<std::string, std::vector<std::size_t>> parts;
  for (const std::size_t i : region.placed) {
    if (placed_[i].path.size() > path.size()) parts[placed_[i].path[path.size()]].push_back(i);
  }
  for (const auto& [name, figures] : parts) {
    std::set<std::size_t> own;
    for (const std::size_t i : figures) own.insert(placed_[i].figure.of_case);
    IntervalRegion unused;
    const double beside = centre(path, {.many = &own}, unused);
    if (unused.rows == 0) continue;  // the part is all there is
    for (const std::size_t i : figures) {
      const Figure& f = placed_[i].figure;
      out.distances[name].push_back({std::abs(f.value - beside), region.weight(f.of_case)});
    }
  }
}

double FigureRegions::outside(const Path& path, const std::string& but) const {
  const auto found = outside_.find(path);
  double around = 0;
  if (!path.empty()) around = outside(Path(path.begin(), path.end() - 1), "");
  if (found == outside_.end()) return around;
  const double own = found->second.of(but);
  if (own == 0 || path.empty()) return own == 0 ? around : own;
  const auto n = static_cast<double>(found->second.distances.size() - found->second.distances.count(but));
  return (n * own + outside_around * around) / (n + outside_around);
}

IntervalRegion FigureRegions::estimate(const Path& path, std::size_t left_out) const {
  IntervalRegion out;
  out.centre = centre(path, {left_out}, out);
  out.spread = spread(path, left_out);
  if (path.size() < model_depth) {
    out.outside = outside(path, "");
    return out;
  }
  // The narrowest region that has figures of others; wider than a model, it knows none of the model's.
  Path at;
  for (std::size_t depth = 0; depth < model_depth; ++depth) {
    Path next = at;
    next.push_back(path[depth]);
    const auto found = regions_.find(next);
    const bool empty = found == regions_.end() ||
                       (found->second.of_cases.size() == 1 && found->second.of_cases.contains(left_out));
    if (empty) {
      out.spread = std::max(out.spread, outside(at, path[depth]));
      break;
    }
    at = std::move(next);
  }
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
    // Of a model it is listed all the same: that there are figures of it (IntervalCorrections::knows_model);
    // and where models differ, how much.
    const auto parts = outside_.find(path);
    const bool differ = parts != outside_.end() && parts->second.distances.size() > 1;
    if (repeats && path.size() != model_depth && !differ) continue;
    own.centre = std::round(own.centre * 1000) / 1000;
    own.spread = std::ceil(own.spread * 1000 - 1e-9) / 1000;
    own.outside = std::ceil(own.outside * 1000 - 1e-9) / 1000;
    out.emplace(quantity_ + (path.empty() ? "" : ", " + join(path, ", ")), own);
  }
}

}  // namespace orrery
