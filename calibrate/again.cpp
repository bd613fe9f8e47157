#include "calibrate/again.h"

#include <algorithm>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace {

constexpr std::size_t stride = 8;

// The first cells of a row, as many as name it.
std::vector<std::string> cells_of(const std::string& row, std::size_t count) {
  std::vector<std::string> cells;
  for (std::size_t from = 0; cells.size() < count && from <= row.size();) {
    const std::size_t end = std::min(row.find(',', from), row.size());
    cells.push_back(row.substr(from, end - from));
    from = end + 1;
  }
  return cells;
}

Status read_rows(const std::string& path, const TableEntry& table, const std::vector<std::string>& ops,
                 std::vector<Point>& points) {
  ORRERY_TRY(text, read_text_file(path));
  const std::string header = table.columns, name = table.name;
  const auto columns = static_cast<std::size_t>(std::count(header.begin(), header.end(), ',')) + 1;
  std::size_t from = text.find('\n');
  for (int line = 2; from != std::string::npos && from + 1 < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', from + 1), text.size());
    const auto spec = spec_of(name, cells_of(text.substr(from + 1, end - from - 1), columns));
    from = end;
    if (!spec.ok()) return invalid_input(spec.errors().front().message, {path, line, 0});
    const auto named = [&](const std::string& op) { return op == name || op == name + "/" + spec->dtype; };
    if (!ops.empty() && std::none_of(ops.begin(), ops.end(), named)) continue;
    Point point;
    point.spec = *spec;
    point.table = name;
    point.shape = shape_of(*spec);
    points.push_back(std::move(point));
  }
  return ok_status();
}

}  // namespace

Result<std::vector<Point>> points_again(const std::string& folder, const std::vector<std::string>& ops) {
  std::vector<Point> rows, points;
  for (const char* name : {"grouped_gemm", "gemm"}) {
    std::error_code ec;
    const std::string path = folder + "/" + name + ".csv";
    if (std::filesystem::exists(path, ec)) ORRERY_TRY_STATUS(read_rows(path, *find_table(name), ops, rows));
  }
  if (rows.empty()) return invalid_input("has no rows of products that were asked for", {folder, 0, 0});
  for (std::size_t first = 0; first < stride; ++first) {
    for (std::size_t i = first; i < rows.size(); i += stride) points.push_back(rows[i]);
  }
  return points;
}

}  // namespace orrery::calibrate
