// Utilisation = bound ÷ measured, where the bound is what the data sheet's rates alone would allow. Tables
// keep it on the operator's own axes: it moves slowly where time has knees, so that points between measured
// ones can be had by interpolation.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace orrery {

// Where a price comes from, best first (architecture §4).
enum class Rung : std::uint8_t { measured, published, transported, roofline, count };
const char* to_string(Rung rung);
Rung rung_named(std::string_view name);  // roofline for any other name
// How it stands to the points of its table.
enum class Hit : std::uint8_t { exact, interpolated, extrapolated };
const char* to_string(Hit hit);

struct UtilisationPoint {
  double x = 0, utilisation = 0;  // both > 0
};

// Utilisation along one axis. Between points a power law (a straight line in the logarithms), so that a
// stretch of constant time stays constant; beyond the ends the nearest point's.
class UtilisationCurve {
 public:
  UtilisationCurve() = default;
  explicit UtilisationCurve(const std::vector<UtilisationPoint>& points);  // ascending x, at least one
  double at(double x) const;
  // Logarithm of the utilisation on a monotone cubic through the points instead: no kink at a knee.
  double smooth_log(double x) const;
  Hit hit(double x) const;
  double first() const { return x_.front(); }
  double last() const { return x_.back(); }
  const std::vector<double>& axis() const { return x_; }

 private:
  std::vector<double> x_, log_x_, log_utilisation_;
};

// Value at `query` of the monotone cubic through points of ascending x, in the stretch from `below` on.
// Slopes are harmonic means, so that it never overshoots (Fritsch and Butland 1984).
double monotone_cubic(const double* x, const double* y, std::size_t count, std::size_t below, double query);

// How much each of `points` (logarithms of static shapes) says about `query`: a plane through the nearest
// eight, weighted by distance⁻³ and held flat by a ridge, so that a grid is interpolated and a lone neighbour
// taken as it is. Weights sum to 1; an exact match alone has all of it. The query is moved into the points'
// box first. Chosen on published GEMM tables by leaving whole shapes out (docs/calibration.md).
constexpr std::size_t shape_axes = 3;  // those that an operator does not use are 0
using LogShape = std::array<double, shape_axes>;
std::vector<std::pair<std::size_t, double>> neighbour_weights(const std::vector<LogShape>& points,
                                                              const LogShape& query);

// The weighted mean, in the logarithm, of several curves: on all of their axes' points.
UtilisationCurve blend(const std::vector<std::pair<const UtilisationCurve*, double>>& curves);

// Nanoseconds over two axes on a dense lattice of eight points to an octave: a look-up is a few shifts and a
// bilinear mean. Filled once from a function; arguments outside are moved to the border.
class DenseGrid {
 public:
  DenseGrid() = default;
  // Both axes start at 1. `octaves`: how far they reach.
  template <class Function>
  DenseGrid(int x_octaves, int y_octaves, Function ns) : columns_(points(y_octaves)) {
    const std::size_t rows = points(x_octaves);
    values_.reserve(rows * columns_);
    for (std::size_t i = 0; i < rows; ++i) {
      for (std::size_t j = 0; j < columns_; ++j) values_.push_back(ns(lattice(i), lattice(j)));
    }
    rows_ = rows;
  }
  double at(double x, double y) const;
  void make_monotone();  // neither axis ever makes it shorter: noise of a table is flattened upwards
  bool empty() const { return values_.empty(); }

 private:
  static constexpr std::size_t per_octave = 8;
  static std::size_t points(int octaves) { return static_cast<std::size_t>(octaves) * per_octave + 1; }
  static double lattice(std::size_t index) {
    const double octave = static_cast<double>(std::uint64_t{1} << (index / per_octave));
    return octave * (1 + static_cast<double>(index % per_octave) / per_octave);
  }
  std::size_t rows_ = 0, columns_ = 0;
  std::vector<double> values_;
};

}  // namespace orrery
