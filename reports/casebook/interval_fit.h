// Interval corrections from measured figures: split conformal prediction, each end by itself.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/result.h"
#include "reports/casebook/score_rows.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

// A pool needs so many figures of the fitted half, and of so many cases; with fewer, its figures borrow the
// next wider pool's.
constexpr std::size_t least_pool_rows = 150;
constexpr std::size_t least_pool_cases = 40;

// Of the rows of the fitted half; the other has no part. Each figure is set against its region (as if its own
// case were not there), in scatters of it: what regions scatter by is taken out, and a pool says the rest.
// Coverage is counted over figures, so figures count; but what is exchangeable is cases, n of them. An end
// lies so many scatters from the centre as figures at (1 − a)·(n + 1) ÷ n of all in order do, rounded
// outwards. The two shares a add up to a tenth, and stand so between a fortieth and three fortieths that the
// pool's intervals are shortest on average: errors have one long tail. Where n is too small for a share, it
// is not tried. Pools and regions in a fixed order.
IntervalCorrections fit_intervals(const std::vector<ScoreRow>& rows);

struct FitInput {
  std::string file, digest;
};
std::string corrections_yaml(const IntervalCorrections& corrections, const std::vector<FitInput>& inputs);

}  // namespace orrery
