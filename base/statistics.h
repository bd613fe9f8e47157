// Statistics of a sample as numpy computes them: what benchmark clients print, and what our intervals use.
#pragma once

#include <cstddef>
#include <vector>

namespace orrery {

// numpy.percentile's default ("linear"): the value at rank p / 100 · (n − 1), between two neighbours on the
// line that joins them. `sorted` ascending, not empty; 0 ≤ p ≤ 100.
double linear_percentile(const std::vector<double>& sorted, double p);
double mean_of(const std::vector<double>& values);  // not empty
// numpy.std: of the population (divided by n); 0 for one value. Not empty.
double deviation_of(const std::vector<double>& values);

}  // namespace orrery
