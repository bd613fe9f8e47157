#include "calibrate/table_index.h"

#include <algorithm>
#include <filesystem>

#include "base/yaml_reader.h"

namespace orrery::calibrate {

namespace fs = std::filesystem;

namespace {

TableOperator read_operator(const Yaml& node) {
  TableOperator op;
  for (const Yaml& kernel : node.require("kernels").items()) op.kernels.push_back(kernel.text());
  op.points = node.require("points").integer(0, 0);
  if (const Yaml error = node.optional("error")) op.error = error.number(0, 0);
  return op;
}

// The other keys are the cost model's to read; what is looked at here must be right.
Result<TableSummary> read_summary(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  TableSummary table;
  table.hardware = root.require("hardware").text();
  table.kernels = root.require("kernels").text();
  table.date = root.optional("date").text();
  table.device = root.optional("device").optional("name").text();
  const Yaml operators = root.optional("operators");
  if (operators.is_map()) {
    for (const auto& [name, node] : operators.entries()) table.operators[name] = read_operator(node);
  }
  if (!document.errors().empty()) return document.errors();
  return table;
}

}  // namespace

Result<std::vector<TableSummary>> table_index(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code ec;
  for (fs::recursive_directory_iterator it(folder, ec), end; !ec && it != end; it.increment(ec)) {
    if (it->path().filename() == "table.yaml") paths.push_back(it->path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<TableSummary> tables;
  Errors errors;
  for (const std::string& path : paths) {
    auto table = read_summary(path);
    if (table.ok())
      tables.push_back(std::move(table).value());
    else
      errors.insert(errors.end(), table.errors().begin(), table.errors().end());
  }
  if (!errors.empty()) return errors;
  return tables;
}

}  // namespace orrery::calibrate
