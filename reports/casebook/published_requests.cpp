#include "reports/casebook/published_requests.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <numeric>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

namespace {

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> cells;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find(',', begin), line.size());
    cells.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return cells;
}

struct Row {
  double arrival = 0, prompt = 0, output = 0, ttft = 0, e2e = 0;
};

}  // namespace

Result<PublishedTrace> read_published_requests(const std::string& path, const PublishedRequests& columns) {
  ORRERY_TRY(reader, LineReader::open(path));
  std::string_view line;
  if (!reader.next(line)) return invalid_input("no header", {path, 1, 0});
  const std::vector<std::string_view> header = split(line);
  const std::string names[] = {columns.arrival_s, columns.prompt_tokens, columns.output_tokens,
                               columns.ttft_ms, columns.e2e_ms};
  std::size_t at[5];
  for (std::size_t i = 0; i < 5; ++i) {
    const auto found = std::find(header.begin(), header.end(), names[i]);
    if (found == header.end())
      return invalid_input("no such column; the file has " + join({header.begin(), header.end()}, ", "),
                           {path, 1, 0}, names[i]);
    at[i] = static_cast<std::size_t>(found - header.begin());
  }
  std::vector<Row> rows;
  while (reader.next(line)) {
    if (line.empty()) continue;
    const std::vector<std::string_view> cells = split(line);
    Row row;
    double* const fields[] = {&row.arrival, &row.prompt, &row.output, &row.ttft, &row.e2e};
    for (std::size_t i = 0; i < 5; ++i) {
      const std::string_view cell = at[i] < cells.size() ? cells[at[i]] : std::string_view();
      const auto [end, code] = std::from_chars(cell.data(), cell.data() + cell.size(), *fields[i]);
      if (code != std::errc() || end != cell.data() + cell.size() || !(*fields[i] > 0) || *fields[i] > 1e12)
        return invalid_input("expected a number above 0, got " + quote(cell),
                             {path, static_cast<int>(reader.line_number()), 0}, names[i]);
    }
    rows.push_back(row);
  }
  if (reader.error() != nullptr) return *reader.error();
  if (rows.empty()) return invalid_input("no requests", {path, 2, 0});
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.arrival < b.arrival; });
  PublishedTrace out;
  const double start = rows.front().arrival;
  for (const Row& row : rows) {
    TraceRequest request;
    request.index = out.requests.size();
    request.arrival = SimTime() + duration_from_seconds(row.arrival - start);
    request.prompt_tokens = static_cast<std::int32_t>(std::min(row.prompt, 1e9));
    request.output_tokens = request.max_output_tokens = static_cast<std::int32_t>(std::min(row.output, 1e9));
    out.requests.push_back(std::move(request));
    out.ttft_ms.push_back(row.ttft);
    out.e2e_ms.push_back(row.e2e);
  }
  return out;
}

std::string find_shared_file(const std::string& file) {
  const std::string path = file.starts_with("/") ? file : data_directory() + "/../shared/" + file;
  std::error_code ec;
  return std::filesystem::is_regular_file(path, ec) ? path : std::string();
}

}  // namespace orrery
