#include "costmodel/utilisation.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery {

const char* to_string(Rung rung) {
  switch (rung) {
    case Rung::measured: return "measured";
    case Rung::published: return "published";
    case Rung::transported: return "transported";
    case Rung::roofline:
    case Rung::count: break;
  }
  return "roofline";
}

Rung rung_named(std::string_view name) {
  for (const Rung rung : {Rung::measured, Rung::published, Rung::transported}) {
    if (name == to_string(rung)) return rung;
  }
  return Rung::roofline;
}

const char* to_string(Hit hit) {
  switch (hit) {
    case Hit::exact: return "exact";
    case Hit::interpolated: return "interpolated";
    case Hit::extrapolated: break;
  }
  return "extrapolated";
}

namespace {

// Of the cubic at point i: zero at an extremum, else the weighted harmonic mean of the slopes on both sides.
double cubic_slope(const double* x, const double* y, std::size_t count, std::size_t i) {
  const auto secant = [&](std::size_t k) { return (y[k + 1] - y[k]) / (x[k + 1] - x[k]); };
  if (i == 0) return secant(0);
  if (i + 1 == count) return secant(i - 1);
  const double before = secant(i - 1), after = secant(i);
  if (before * after <= 0) return 0;
  const double left = x[i] - x[i - 1], right = x[i + 1] - x[i];
  const double w1 = 2 * right + left, w2 = right + 2 * left;
  return (w1 + w2) / (w1 / before + w2 / after);
}

}  // namespace

double monotone_cubic(const double* x, const double* y, std::size_t count, std::size_t below, double query) {
  const double width = x[below + 1] - x[below], t = (query - x[below]) / width;
  const double t2 = t * t, t3 = t2 * t;
  return (2 * t3 - 3 * t2 + 1) * y[below] + (3 * t2 - 2 * t3) * y[below + 1] +
         width * ((t3 - 2 * t2 + t) * cubic_slope(x, y, count, below) +
                  (t3 - t2) * cubic_slope(x, y, count, below + 1));
}

UtilisationCurve::UtilisationCurve(const std::vector<UtilisationPoint>& points) {
  ORRERY_CHECK(!points.empty(), "a curve needs a point");
  for (const UtilisationPoint& point : points) {
    ORRERY_CHECK(point.x > 0 && point.utilisation > 0, "utilisation is positive");
    ORRERY_CHECK(x_.empty() || point.x > x_.back(), "points of a curve ascend");
    x_.push_back(point.x);
    log_x_.push_back(det_log(point.x));
    log_utilisation_.push_back(det_log(point.utilisation));
  }
}

double UtilisationCurve::at(double x) const {
  if (x <= x_.front()) return det_exp(log_utilisation_.front());
  if (x >= x_.back()) return det_exp(log_utilisation_.back());
  const auto above = static_cast<std::size_t>(std::lower_bound(x_.begin(), x_.end(), x) - x_.begin());
  if (x_[above] == x) return det_exp(log_utilisation_[above]);
  const std::size_t below = above - 1;
  const double part = (det_log(x) - log_x_[below]) / (log_x_[above] - log_x_[below]);
  return det_exp(log_utilisation_[below] + part * (log_utilisation_[above] - log_utilisation_[below]));
}

double UtilisationCurve::smooth_log(double x) const {
  if (x <= x_.front()) return log_utilisation_.front();
  if (x >= x_.back()) return log_utilisation_.back();
  const auto above = static_cast<std::size_t>(std::lower_bound(x_.begin(), x_.end(), x) - x_.begin());
  if (x_[above] == x) return log_utilisation_[above];
  return monotone_cubic(log_x_.data(), log_utilisation_.data(), x_.size(), above - 1, det_log(x));
}

Hit UtilisationCurve::hit(double x) const {
  if (x < x_.front() || x > x_.back()) return Hit::extrapolated;
  return std::binary_search(x_.begin(), x_.end(), x) ? Hit::exact : Hit::interpolated;
}

namespace {

constexpr std::size_t neighbours = 8;
constexpr double ridge = 0.01;  // of the sum of weights, on the slopes

using Matrix = std::array<std::array<double, shape_axes + 1>, shape_axes + 1>;

// Solves the symmetric positive system by elimination; the ridge keeps it far from singular.
std::array<double, shape_axes + 1> solve(Matrix a, std::array<double, shape_axes + 1> b) {
  constexpr std::size_t n = shape_axes + 1;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t row = i + 1; row < n; ++row) {
      const double factor = a[row][i] / a[i][i];
      for (std::size_t column = i; column < n; ++column) a[row][column] -= factor * a[i][column];
      b[row] -= factor * b[i];
    }
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t column = i + 1; column < n; ++column) b[i] -= a[i][column] * b[column];
    b[i] /= a[i][i];
  }
  return b;
}

LogShape moved_into_box(const std::vector<LogShape>& points, LogShape query) {
  for (std::size_t axis = 0; axis < shape_axes; ++axis) {
    double low = points.front()[axis], high = low;
    for (const LogShape& p : points) {
      low = std::min(low, p[axis]);
      high = std::max(high, p[axis]);
    }
    query[axis] = std::clamp(query[axis], low, high);
  }
  return query;
}

}  // namespace

std::vector<std::pair<std::size_t, double>> neighbour_weights(const std::vector<LogShape>& points,
                                                              const LogShape& asked) {
  ORRERY_CHECK(!points.empty(), "no neighbours");
  const LogShape query = moved_into_box(points, asked);
  std::vector<std::pair<double, std::size_t>> near;  // squared distance, index: ties by index
  for (std::size_t i = 0; i < points.size(); ++i) {
    double squared = 0;
    for (std::size_t axis = 0; axis < shape_axes; ++axis) {
      const double d = points[i][axis] - query[axis];
      squared += d * d;
    }
    if (squared < 1e-18) return {{i, 1.0}};
    near.emplace_back(squared, i);
  }
  const std::size_t count = std::min(neighbours, near.size());
  std::partial_sort(near.begin(), near.begin() + static_cast<std::ptrdiff_t>(count), near.end());
  near.resize(count);
  // Weighted least squares of 1, x − q: the value at the query is linear in the neighbours' values.
  Matrix normal{};
  double total = 0;
  std::vector<double> weight(count);
  std::vector<std::array<double, shape_axes + 1>> rows(count);
  for (std::size_t i = 0; i < count; ++i) {
    weight[i] = 1 / (near[i].first * std::sqrt(near[i].first));
    total += weight[i];
    rows[i][0] = 1;
    for (std::size_t axis = 0; axis < shape_axes; ++axis)
      rows[i][axis + 1] = points[near[i].second][axis] - query[axis];
    for (std::size_t r = 0; r <= shape_axes; ++r) {
      for (std::size_t c = 0; c <= shape_axes; ++c) normal[r][c] += weight[i] * rows[i][r] * rows[i][c];
    }
  }
  for (std::size_t axis = 1; axis <= shape_axes; ++axis) normal[axis][axis] += ridge * total;
  const auto first_row = solve(normal, {1});  // of the inverse, which is symmetric
  std::vector<std::pair<std::size_t, double>> out;
  for (std::size_t i = 0; i < count; ++i) {
    double share = 0;
    for (std::size_t r = 0; r <= shape_axes; ++r) share += first_row[r] * rows[i][r];
    out.emplace_back(near[i].second, share * weight[i]);
  }
  return out;
}

UtilisationCurve blend(const std::vector<std::pair<const UtilisationCurve*, double>>& curves) {
  ORRERY_CHECK(!curves.empty(), "nothing to blend");
  std::vector<double> axis;
  for (const auto& [curve, weight] : curves)
    axis.insert(axis.end(), curve->axis().begin(), curve->axis().end());
  std::sort(axis.begin(), axis.end());
  axis.erase(std::unique(axis.begin(), axis.end()), axis.end());
  std::vector<UtilisationPoint> points;
  for (const double x : axis) {
    double log_mean = 0, least = curves.front().first->at(x), most = least;
    for (const auto& [curve, weight] : curves) {
      const double u = curve->at(x);
      log_mean += weight * det_log(u);
      least = std::min(least, u);
      most = std::max(most, u);
    }
    // A plane through neighbours on one side would run away: never beyond what one of them was seen to reach.
    points.push_back({x, std::clamp(det_exp(log_mean), least, most)});
  }
  return UtilisationCurve(points);
}

namespace {

// Position on a lattice of eight points to an octave: whole part and rest. The bits of a double are its
// octave and, as the first three of the fraction, its eighth.
struct Position {
  std::size_t index = 0;
  double rest = 0;
};
Position position(double value, std::size_t size) {
  if (!(value > 1)) return {};
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const auto index = static_cast<std::size_t>((bits >> 49) - (std::uint64_t{1023} << 3));
  if (index + 1 >= size) return {size - 2, 1};
  constexpr std::uint64_t low_bits = (std::uint64_t{1} << 49) - 1;
  return {index, static_cast<double>(bits & low_bits) / static_cast<double>(low_bits + 1)};
}

}  // namespace

void DenseGrid::make_monotone() {
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (i % columns_ > 0) values_[i] = std::max(values_[i], values_[i - 1]);
    if (i >= columns_) values_[i] = std::max(values_[i], values_[i - columns_]);
  }
}

double DenseGrid::at(double x, double y) const {
  const Position row = position(x, rows_), column = position(y, columns_);
  const double* low = values_.data() + row.index * columns_ + column.index;
  const double* high = low + columns_;
  const double at_low = low[0] + column.rest * (low[1] - low[0]);
  const double at_high = high[0] + column.rest * (high[1] - high[0]);
  return at_low + row.rest * (at_high - at_low);
}

}  // namespace orrery
