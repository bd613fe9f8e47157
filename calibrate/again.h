// Points that a set of tables already has, to be timed again: a kernel has changed and its rows with it.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "calibrate/point.h"

namespace orrery::calibrate {

// Rows of the folder's tables, those of `ops` (tables, or table/format; empty = all). Every eighth row, then
// the ones behind them, and so on: what is cut off covers all shapes. Errors name a row that cannot be read.
Result<std::vector<Point>> points_again(const std::string& folder, const std::vector<std::string>& ops);

}  // namespace orrery::calibrate
