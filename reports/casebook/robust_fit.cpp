#include "reports/casebook/robust_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace orrery {

namespace {

using Matrix = std::vector<std::vector<double>>;

// Cholesky's factor in place; false where the matrix is not positive definite.
bool factor(Matrix& a) {
  const std::size_t n = a.size();
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t k = 0; k < j; ++k) a[j][j] -= a[j][k] * a[j][k];
    if (!(a[j][j] > 1e-300)) return false;
    a[j][j] = std::sqrt(a[j][j]);
    for (std::size_t i = j + 1; i < n; ++i) {
      for (std::size_t k = 0; k < j; ++k) a[i][j] -= a[i][k] * a[j][k];
      a[i][j] /= a[j][j];
    }
  }
  return true;
}

std::vector<double> solve(const Matrix& l, std::vector<double> b) {
  const std::size_t n = l.size();
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= l[i][k] * b[k];
    b[i] /= l[i][i];
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) b[i] -= l[k][i] * b[k];
    b[i] /= l[i][i];
  }
  return b;
}

// Largest eigenvalue of a symmetric positive matrix by the power method, from a fixed start.
double largest_eigenvalue(const Matrix& a) {
  std::vector<double> v(a.size(), 1.0);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] += 0.1 * static_cast<double>(i);
  double value = 0;
  for (int round = 0; round < 200; ++round) {
    std::vector<double> next(a.size(), 0);
    for (std::size_t i = 0; i < a.size(); ++i)
      for (std::size_t j = 0; j < a.size(); ++j) next[i] += a[i][j] * v[j];
    double length = 0;
    for (const double x : next) length += x * x;
    length = std::sqrt(length);
    if (length <= 0) return 0;
    for (double& x : next) x /= length;
    value = length;
    v = std::move(next);
  }
  return value;
}

// Of the matrix scaled to a unit diagonal: largest over smallest eigenvalue, the smallest through the
// inverse.
double condition_of(const Matrix& normal) {
  Matrix scaled = normal;
  for (std::size_t i = 0; i < scaled.size(); ++i) {
    for (std::size_t j = 0; j < scaled.size(); ++j) {
      const double d = std::sqrt(normal[i][i] * normal[j][j]);
      if (!(d > 0)) return std::numeric_limits<double>::infinity();
      scaled[i][j] /= d;
    }
  }
  Matrix l = scaled;
  if (!factor(l)) return std::numeric_limits<double>::infinity();
  Matrix inverse(scaled.size(), std::vector<double>(scaled.size(), 0));
  for (std::size_t j = 0; j < scaled.size(); ++j) {
    std::vector<double> unit(scaled.size(), 0);
    unit[j] = 1;
    const std::vector<double> column = solve(l, std::move(unit));
    for (std::size_t i = 0; i < scaled.size(); ++i) inverse[i][j] = column[i];
  }
  return largest_eigenvalue(scaled) * largest_eigenvalue(inverse);
}

double huber_weight(double residual, double scale) {
  const double limit = 1.345 * scale, size = std::abs(residual);
  return size <= limit || size <= 0 ? 1 : limit / size;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double shorth_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2 + 1;
  std::size_t best = 0;
  for (std::size_t i = 0; i + half <= values.size(); ++i) {
    if (values[i + half - 1] - values[i] < values[best + half - 1] - values[best]) best = i;
  }
  return values[best + half / 2];
}

RobustFit robust_fit(const std::vector<std::vector<double>>& rows, const std::vector<double>& y,
                     const std::vector<Prior>& prior) {
  ORRERY_CHECK(!rows.empty() && rows.size() == y.size(), "a fit needs rows");
  const std::size_t n = prior.size();
  RobustFit fit;
  fit.rows = rows.size();
  fit.value.assign(n, 0);
  for (std::size_t j = 0; j < n; ++j) fit.value[j] = prior[j].mean;
  std::vector<bool> held(n, false);
  Matrix normal;
  for (int round = 0; round < 30; ++round) {
    std::vector<double> sizes;
    for (std::size_t i = 0; i < rows.size(); ++i) sizes.push_back(std::abs(y[i] - dot(rows[i], fit.value)));
    fit.scale = std::max(1.4826 * median_of(sizes), 1e-12);
    normal.assign(n, std::vector<double>(n, 0));
    std::vector<double> right(n, 0);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double w = (round == 0 ? 1 : huber_weight(y[i] - dot(rows[i], fit.value), fit.scale)) /
                       (fit.scale * fit.scale);
      for (std::size_t a = 0; a < n; ++a) {
        right[a] += w * rows[i][a] * y[i];
        for (std::size_t b = 0; b < n; ++b) normal[a][b] += w * rows[i][a] * rows[i][b];
      }
    }
    Matrix system = normal;
    for (std::size_t a = 0; a < n; ++a) {
      if (prior[a].deviation > 0) {
        const double w = 1 / (prior[a].deviation * prior[a].deviation);
        system[a][a] += w;
        right[a] += w * prior[a].mean;
      }
      system[a][a] += 1e-12 * (1 + system[a][a]);
    }
    for (std::size_t a = 0; a < n; ++a) {
      if (!held[a]) continue;  // its value is known: moved to the right side
      for (std::size_t b = 0; b < n; ++b) {
        if (b != a && !held[b]) right[b] -= system[b][a] * prior[a].least;
        if (b != a) system[a][b] = system[b][a] = 0;
      }
      system[a][a] = 1;
      right[a] = prior[a].least;
    }
    Matrix l = system;
    if (!factor(l)) break;
    fit.value = solve(l, right);
    for (std::size_t a = 0; a < n; ++a) {
      if (fit.value[a] >= prior[a].least) continue;
      held[a] = true;
      fit.value[a] = prior[a].least;
    }
  }
  fit.condition = condition_of(normal);
  fit.deviation.assign(n, std::numeric_limits<double>::infinity());
  Matrix l = normal;
  if (factor(l)) {
    for (std::size_t j = 0; j < n; ++j) {
      std::vector<double> unit(n, 0);
      unit[j] = 1;
      fit.deviation[j] = std::sqrt(solve(l, std::move(unit))[j]);
    }
  }
  return fit;
}

}  // namespace orrery
