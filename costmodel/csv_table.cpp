#include "costmodel/csv_table.h"

#include <algorithm>

#include "base/files.h"

namespace orrery {

namespace {

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> cells;
  for (std::size_t at = 0;;) {
    const std::size_t comma = line.find(',', at);
    cells.push_back(line.substr(at, comma == std::string_view::npos ? comma : comma - at));
    if (comma == std::string_view::npos) return cells;
    at = comma + 1;
  }
}

}  // namespace

Result<CsvTable> CsvTable::load(const std::string& path) {
  ORRERY_TRY(text, read_text_file(path));
  CsvTable table;
  table.path_ = path;
  table.text_ = std::make_unique<std::string>(std::move(text));
  std::string_view rest = *table.text_;
  for (int line = 1; !rest.empty(); ++line) {
    const std::size_t end = rest.find('\n');
    const std::string_view row = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
    if (row.empty() || row.front() == '#') continue;
    if (table.header_.empty()) {
      table.read_header(row);
    } else {
      table.rows_.push_back({line, split(row)});
      if (table.rows_.back().cells.size() != table.header_.size()) {
        return invalid_input("has " + std::to_string(table.rows_.back().cells.size()) +
                                 " cells, the header " + std::to_string(table.header_.size()),
                             {path, line, 0});
      }
    }
  }
  if (table.header_.empty()) return invalid_input("has no header", {path, 1, 0});
  return table;
}

std::size_t CsvTable::column(std::string_view name) const {
  return static_cast<std::size_t>(std::find(header_.begin(), header_.end(), name) - header_.begin());
}

void CsvTable::read_header(std::string_view row) {
  header_ = split(row);
  for (std::size_t c = 0; c < header_.size(); ++c) {
    double x = 0;
    if (number(header_[c], x)) axis_.emplace_back(x, c);
  }
  std::sort(axis_.begin(), axis_.end());
}

}  // namespace orrery
