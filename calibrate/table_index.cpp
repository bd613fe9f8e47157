#include "calibrate/table_index.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/files.h"
#include "base/yaml_reader.h"
#include "costmodel/hardware.h"
#include "costmodel/kernel_set.h"
#include "costmodel/profile_folder.h"

namespace orrery::calibrate {

namespace fs = std::filesystem;

namespace {

// Kernel ids by operator, where the table is one of ours; the rest of table.yaml is the cost model's to
// check.
Status read_kernels(const std::string& path, TableSummary& table) {
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  table.kind = root.require("kind").text();
  const Yaml operators = root.optional("operators");
  if (!operators.is_map()) return document.errors().empty() ? ok_status() : Status(document.errors());
  for (const auto& [name, node] : operators.entries()) {
    TableOperator& op = table.operators[name];
    for (const Yaml& kernel : node.require("kernels").items()) op.kernels.push_back(kernel.text());
    op.points = static_cast<std::size_t>(node.require("points").integer(0, 0));
  }
  return document.errors().empty() ? ok_status() : Status(document.errors());
}

Result<TableSummary> summarise(const HardwareProfile& hardware, const std::string& name,
                               const std::vector<std::string>& ops) {
  TableSummary table;
  table.hardware = hardware.name;
  table.kernels = name;
  const std::string folder = data_directory() + "/hardware_profiles/tables/" + hardware.name + "/" + name;
  ORRERY_TRY_STATUS(read_kernels(folder + "/table.yaml", table));
  ORRERY_TRY(set, KernelSet::load(hardware, name));
  for (const std::string& op : ops) {
    const std::size_t points = set->points(op);
    if (points > 0 && table.operators[op].points == 0) table.operators[op].points = points;
  }
  std::error_code ec;
  const std::string errors = folder + "/errors.csv";
  if (fs::exists(errors, ec)) ORRERY_TRY_STATUS(read_errors(errors, table.operators));
  return table;
}

}  // namespace

Status read_errors(const std::string& path, std::map<std::string, TableOperator>& operators) {
  ORRERY_TRY(reader, LineReader::open(path));
  std::string_view line;
  while (reader.next(line)) {
    std::vector<std::string> cells{""};
    for (const char c : line) {
      if (c == ',')
        cells.emplace_back();
      else
        cells.back() += c;
    }
    if (cells.size() < 6 || operators.count(cells[0]) == 0)
      continue;  // header, or an operator without points
    double error = 0;
    const std::string& text = cells[4];
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), error);
    if (parsed.ec != std::errc() || !(error > 0)) {
      return invalid_input("an error above 0 was expected", {path, static_cast<int>(reader.line_number()), 0},
                           "points");
    }
    TableOperator& op = operators[cells[0]];
    op.least_error = op.least_error > 0 ? std::min(op.least_error, error) : error;
    op.most_error = std::max(op.most_error, error);
  }
  if (reader.error() != nullptr) return *reader.error();
  return ok_status();
}

Result<std::vector<TableSummary>> table_index(const std::vector<std::string>& ops) {
  std::vector<TableSummary> tables;
  Errors errors;
  for (const std::string& hardware : profile_names("hardware_profiles")) {
    const std::vector<std::string> sets = KernelSet::names(hardware);
    if (sets.empty()) continue;
    ORRERY_TRY(profile, load_hardware(hardware));
    for (const std::string& name : sets) {
      auto table = summarise(profile, name, ops);
      if (table.ok())
        tables.push_back(std::move(table).value());
      else
        errors.insert(errors.end(), table.errors().begin(), table.errors().end());
    }
  }
  if (!errors.empty()) return errors;
  return tables;
}

}  // namespace orrery::calibrate
