// Least squares with a prior and without fear of outliers, for a handful of unknowns: minimises
//   Σ ρ((yᵢ − xᵢ·b)/s) + Σ ((bⱼ − meanⱼ)/deviationⱼ)²,   ρ = Huber's (quadratic to 1.345, then linear),
// by reweighting; s = 1.4826 × the median absolute residual of the last round. Coefficients below `least` are
// held there. The normal equations of at most a dozen unknowns are 40 lines; a linear-algebra library would
// be a build dependency for them alone.
#pragma once

#include <cstddef>
#include <vector>

namespace orrery {

struct Prior {
  double mean = 0, deviation = 0;  // deviation 0: none
  double least = 0;
};

struct RobustFit {
  std::vector<double> value;
  // Standard deviation from the data alone, without the prior; infinite where the data say nothing.
  std::vector<double> deviation;
  double scale = 0;      // s of the last round
  double condition = 0;  // of the data's normal matrix with unit diagonal: large = unknowns the data cannot
                         // tell apart
  std::size_t rows = 0;
};

// `rows[i]` has as many entries as `prior`. Precondition: at least one row.
RobustFit robust_fit(const std::vector<std::vector<double>>& rows, const std::vector<double>& y,
                     const std::vector<Prior>& prior);

// Median of the shortest interval that holds half of a non-empty list: where the values are densest.
double shorth_of(std::vector<double> values);
double median_of(std::vector<double> values);  // the upper one of two in the middle; 0 when empty

}  // namespace orrery
