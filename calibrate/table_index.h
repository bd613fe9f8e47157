// Which measured tables this Orrery has, by their table.yaml: for `orrery list operators`.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace orrery::calibrate {

struct TableOperator {
  std::vector<std::string> kernels;
  std::int64_t points = 0;
  std::optional<double> error;  // one standard deviation of log(time), where the table states it
};

struct TableSummary {
  std::string hardware, kernels, date, device;
  std::map<std::string, TableOperator> operators;
};

// Every <folder>/<hardware>/<kernels>/table.yaml, in the order of their names. A missing folder is no table.
Result<std::vector<TableSummary>> table_index(const std::string& folder);

}  // namespace orrery::calibrate
