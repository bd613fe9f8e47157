// Which tables of kernels this Orrery has, and what each holds of an operator: for `orrery list operators`.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace orrery::calibrate {

struct TableOperator {
  std::vector<std::string> kernels;  // ids, where table.yaml names them
  std::size_t points = 0;
  // One standard deviation of log(time), least and most over types and regions; 0 where the table states
  // none.
  double least_error = 0, most_error = 0;
};

struct TableSummary {
  std::string hardware, kernels, kind;  // "h200", "vllm-0.24", "published"
  std::map<std::string, TableOperator> operators;
};

// Every set of every part, in the order of their names, with those of `ops` that it holds. Errors: a table
// that does not load.
Result<std::vector<TableSummary>> table_index(const std::vector<std::string>& ops);

// Errors of an errors.csv (op,dtype,low,high,points,shapes) into the operators that have points.
Status read_errors(const std::string& path, std::map<std::string, TableOperator>& operators);

}  // namespace orrery::calibrate
