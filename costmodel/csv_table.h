// A CSV of a kernel table with its header: cells by column name, numbers checked where they are asked for.
// Columns whose names are numbers are points of the moving axis.
#pragma once

#include <charconv>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "costmodel/utilisation.h"

namespace orrery {

inline bool number(std::string_view text, double& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

class CsvTable {
 public:
  // Errors: what read_text_file says; a row with another number of cells than the header, with its line.
  static Result<CsvTable> load(const std::string& path);

  struct Row {
    int line = 0;
    std::vector<std::string_view> cells;
  };
  const std::vector<Row>& rows() const { return rows_; }
  const std::vector<std::pair<double, std::size_t>>& axis() const { return axis_; }  // value, column
  bool timed() const { return has("us"); }
  bool has(const char* name) const { return column(name) < header_.size(); }

  std::string text(const Row& row, const char* name) const {
    const std::size_t c = column(name);
    return c < header_.size() ? std::string(row.cells[c]) : "";
  }
  // A positive number; anything else is an error at the row.
  double positive(const Row& row, const char* name, Errors& errors) const {
    const std::size_t c = column(name);
    double value = 0;
    if (c < header_.size() && number(row.cells[c], value) && value > 0) return value;
    fail(row, name, "must be a positive number", errors);
    return 1;
  }
  std::int64_t whole(const Row& row, const char* name, Errors& errors, std::int64_t absent = 0) const {
    const std::size_t c = column(name);
    if (c >= header_.size() && absent >= 0) return absent;
    double value = -1;
    if (c < header_.size() && number(row.cells[c], value) && value >= 0 && value < 1e15)
      return static_cast<std::int64_t>(value);
    fail(row, name, "must be a whole number", errors);
    return 1;
  }
  void fail(const Row& row, const char* name, const std::string& message, Errors& errors) const {
    errors.push_back(invalid_input(message, {path_, row.line, 0}, name));
  }
  // The utilisations of a fitted row, ascending.
  std::vector<UtilisationPoint> points(const Row& row, Errors& errors) const {
    std::vector<UtilisationPoint> out;
    for (const auto& [x, c] : axis_) {
      if (row.cells[c].empty()) continue;
      double u = 0;
      if (number(row.cells[c], u) && u > 0 && u < 4) {
        out.push_back({x, u});
      } else {
        fail(row, std::string(header_[c]).c_str(), "a utilisation is above 0 and below 4", errors);
      }
    }
    return out;
  }

 private:
  std::size_t column(std::string_view name) const;  // one past the last when there is none
  void read_header(std::string_view row);

  std::string path_;
  std::unique_ptr<std::string> text_;  // cells point into it
  std::vector<std::string_view> header_;
  std::vector<std::pair<double, std::size_t>> axis_;
  std::vector<Row> rows_;
};

}  // namespace orrery
