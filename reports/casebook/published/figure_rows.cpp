#include "reports/casebook/published/figure_rows.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <string_view>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

namespace {

constexpr std::array<const char*, figure_columns> kNames = {
    "hw",        "gpus",       "engine", "engine_version", "model", "quant",  "tp",
    "ep",        "pp",         "dp",     "disagg",         "isl",   "osl",    "workload",
    "load_type", "load_value", "metric", "value",          "unit",  "source", "locator",
    "note"};
constexpr std::size_t kMostErrors = 20;

struct Cell {
  std::string text;
  int column = 1;  // where it begins in the line
};

// False: a quote is not closed; `cells` then ends with that cell.
bool split_quoted(std::string_view line, std::vector<Cell>& cells) {
  cells.clear();
  std::size_t at = 0;
  while (true) {
    Cell cell;
    cell.column = static_cast<int>(at) + 1;
    if (at < line.size() && line[at] == '"') {
      ++at;
      while (true) {
        const std::size_t end = line.find('"', at);
        if (end == std::string_view::npos) {
          cells.push_back(std::move(cell));
          return false;
        }
        cell.text += line.substr(at, end - at);
        at = end + 1;
        if (at >= line.size() || line[at] != '"') break;
        cell.text += '"';
        ++at;
      }
    }
    const std::size_t end = std::min(line.find(',', at), line.size());
    cell.text += line.substr(at, end - at);
    cells.push_back(std::move(cell));
    if (end == line.size()) return true;
    at = end + 1;
  }
}

struct Header {
  std::array<std::size_t, figure_columns> at{};
  std::size_t cells = 0;
};

Header read_header(const std::vector<Cell>& cells, const std::string& path, Errors& errors) {
  Header header;
  header.cells = cells.size();
  std::vector<std::string> missing;
  for (std::size_t c = 0; c < figure_columns; ++c) {
    bool found = false;
    for (std::size_t i = 0; i < cells.size(); ++i) {
      if (cells[i].text != kNames[c]) continue;
      if (found)
        errors.push_back(
            invalid_input("this column stands twice in the header", {path, 1, cells[i].column}, kNames[c]));
      header.at[c] = i;
      found = true;
    }
    if (!found) missing.emplace_back(kNames[c]);
  }
  if (!missing.empty())
    errors.push_back(invalid_input(
        "the header lacks " + join(missing, ", ") + "; expected " + join({kNames.begin(), kNames.end()}, ","),
        {path, 1, 1}));
  return header;
}

void read_row(const std::vector<Cell>& cells, const Header& header, FigureRow& row, const std::string& path,
              Errors& errors) {
  for (std::size_t c = 0; c < figure_columns; ++c) row.cells[c] = cells[header.at[c]].text;
  const Cell& value = cells[header.at[static_cast<std::size_t>(FigureColumn::value)]];
  const char* const end = value.text.data() + value.text.size();
  const auto parsed = std::from_chars(value.text.data(), end, row.value);
  if (parsed.ec != std::errc() || parsed.ptr != end || !std::isfinite(row.value))
    errors.push_back(invalid_input("expected a finite number, got " + quote(value.text),
                                   {path, row.line, value.column}, "value"));
}

}  // namespace

const char* to_string(FigureColumn column) { return kNames[static_cast<std::size_t>(column)]; }

Result<std::vector<FigureRow>> read_figure_rows(const std::string& path) {
  ORRERY_TRY(reader, LineReader::open(path));
  std::string_view line;
  if (!reader.next(line)) {
    if (reader.error() != nullptr) return *reader.error();
    return invalid_input("the file is empty; expected a header", {path, 1, 1});
  }
  Errors errors;
  std::vector<Cell> cells;
  if (!split_quoted(line, cells))
    return invalid_input("a quote is opened here and not closed", {path, 1, cells.back().column});
  const Header header = read_header(cells, path, errors);
  if (!errors.empty()) return errors;
  std::vector<FigureRow> rows;
  while (errors.size() < kMostErrors && reader.next(line)) {
    if (line.empty()) continue;
    FigureRow row;
    row.line = static_cast<int>(reader.line_number());
    if (!split_quoted(line, cells)) {
      errors.push_back(
          invalid_input("a quote is opened here and not closed", {path, row.line, cells.back().column}));
    } else if (cells.size() != header.cells) {
      errors.push_back(invalid_input("expected " + std::to_string(header.cells) +
                                         " cells as in the header, got " + std::to_string(cells.size()),
                                     {path, row.line, cells.back().column}));
    } else {
      read_row(cells, header, row, path, errors);
      rows.push_back(std::move(row));
    }
  }
  if (reader.error() != nullptr) errors.push_back(*reader.error());
  if (!errors.empty()) return errors;
  if (rows.empty()) return invalid_input("no rows below the header", {path, 2, 1});
  return rows;
}

double number_cell(const std::string& cell) {
  double value = 0;
  const char* const end = cell.data() + cell.size();
  const auto parsed = std::from_chars(cell.data(), end, value);
  const bool number = parsed.ec == std::errc() && parsed.ptr == end && value > 0 && value <= 1e9;
  return number ? value : 0;
}

std::int64_t whole_cell(const std::string& cell) {
  const double value = number_cell(cell);
  return value == std::floor(value) ? static_cast<std::int64_t>(value) : 0;
}

}  // namespace orrery
