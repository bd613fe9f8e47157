// Published CSV traces with calendar or epoch time: Azure LLM inference 2023 and 2024, BurstGPT. Both count
// arrivals from the first row, since neither starts at zero.
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/text.h"
#include "workloads/priority.h"
#include "workloads/readers/csv.h"
#include "workloads/readers/line_trace.h"

namespace orrery {

namespace {

struct CsvLayout {
  const char* format;
  const char* time_column;
  const char* input_column;
  const char* output_column;
  std::vector<std::string> other_columns;  // known, and not used
  const char* time_expected;
  std::optional<std::int64_t> (*parse_time)(std::string_view);  // → ns
};

std::optional<std::int64_t> parse_seconds(std::string_view text) { return parse_decimal(text, 9); }

// https://github.com/Azure/AzurePublicDataset: the 2024 file differs by a zone behind the time.
const CsvLayout& azure_layout() {
  static const CsvLayout layout{
      "Azure CSV",
      "TIMESTAMP",
      "ContextTokens",
      "GeneratedTokens",
      {},
      "a time such as 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00",
      parse_calendar};
  return layout;
}

// https://github.com/HPMLL/BurstGPT: files 1 and 2 have six columns, file 3 also a session and an elapsed
// time. The session is not used: nothing published says that a later prompt contains the earlier ones.
const CsvLayout& burstgpt_layout() {
  static const CsvLayout layout{"BurstGPT CSV",
                                "Timestamp",
                                "Request tokens",
                                "Response tokens",
                                {"Session ID", "Elapsed time", "Model", "Total tokens", "Log Type"},
                                "seconds: a number of at least 0",
                                parse_seconds};
  return layout;
}

class CsvReader final : public LineTrace {
 public:
  struct Columns {
    std::size_t time = 0, input = 0, output = 0;
    std::vector<std::string> names;
  };
  CsvReader(LineReader lines, TraceReadOptions options, const CsvLayout& layout, Columns columns)
      : LineTrace(std::move(lines), options), layout_(layout), columns_(std::move(columns)) {}
  const char* format() const override { return layout_.format; }

 private:
  bool parse(std::string_view line, TraceRequest& request) override;
  bool tokens(std::string_view line, std::size_t column, std::int32_t& out);
  std::size_t byte_of(std::string_view line, std::size_t column) const {
    return static_cast<std::size_t>(fields_[column].data() - line.data());
  }

  const CsvLayout& layout_;
  Columns columns_;
  std::vector<std::string_view> fields_;
  std::optional<std::int64_t> first_ns_;
};

bool CsvReader::parse(std::string_view line, TraceRequest& request) {
  split_csv(line, fields_);
  if (fields_.size() != columns_.names.size()) {
    return fail(kNoColumn, "",
                "expected " + std::to_string(columns_.names.size()) + " columns (" +
                    join(columns_.names, ",") + "), found " + std::to_string(fields_.size()) +
                    "; is the line cut off?");
  }
  const std::string_view time_text = fields_[columns_.time];
  const std::optional<std::int64_t> time = layout_.parse_time(time_text);
  if (!time) {
    return fail(byte_of(line, columns_.time), layout_.time_column,
                std::string("expected ") + layout_.time_expected + ", found " + quote(time_text));
  }
  if (!tokens(line, columns_.input, request.prompt_tokens) ||
      !tokens(line, columns_.output, request.output_tokens)) {
    return false;
  }
  if (!first_ns_) first_ns_ = time;
  request.arrival = SimTime(*time - *first_ns_);
  request.max_output_tokens = request.output_tokens;
  request.hash_ids.clear();
  request.hash_block_size = 512;
  request.session = 0;
  request.priority = no_priority;
  request.images.clear();
  request.tenant.clear();
  return true;
}

bool CsvReader::tokens(std::string_view line, std::size_t column, std::int32_t& out) {
  const std::optional<std::int64_t> value = parse_whole(fields_[column]);
  if (value && *value >= 1 && *value <= kMaxTokens) {
    out = static_cast<std::int32_t>(*value);
    return true;
  }
  std::string message = "expected a whole number of tokens of at least 1, found " + quote(fields_[column]);
  if (value && *value == 0) {
    message += "; leave such rows out with `orrery trace convert --drop-invalid IN OUT`";
  }
  return fail(byte_of(line, column), columns_.names[column], std::move(message));
}

Result<CsvReader::Columns> read_header(const LineReader& lines, const std::string& header,
                                       const CsvLayout& layout) {
  const SourceLocation where{lines.path(), static_cast<int>(lines.line_number()), 0};
  std::vector<std::string_view> fields;
  split_csv(header, fields);
  std::vector<std::string> known = {layout.time_column, layout.input_column, layout.output_column};
  known.insert(known.end(), layout.other_columns.begin(), layout.other_columns.end());
  CsvReader::Columns columns;
  Errors errors;
  for (const std::string_view field : fields) {
    const std::string name(field);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      errors.push_back(invalid_input("unknown column" + did_you_mean(name, known) + "; a " + layout.format +
                                         " file has " + join(known, ", "),
                                     where, name));
    }
    if (std::find(columns.names.begin(), columns.names.end(), name) != columns.names.end()) {
      errors.push_back(invalid_input("the column stands twice; keep one", where, name));
    }
    columns.names.push_back(name);
  }
  const std::array<std::pair<const char*, std::size_t*>, 3> needed = {
      {{layout.time_column, &columns.time},
       {layout.input_column, &columns.input},
       {layout.output_column, &columns.output}}};
  for (const auto& [name, index] : needed) {
    const auto found = std::find(columns.names.begin(), columns.names.end(), name);
    if (found == columns.names.end()) {
      errors.push_back(invalid_input(
          std::string("the column is missing; a ") + layout.format + " file needs it", where, name));
    } else {
      *index = static_cast<std::size_t>(found - columns.names.begin());
    }
  }
  if (!errors.empty()) return errors;
  return columns;
}

Result<std::unique_ptr<TraceReader>> make_csv_reader(LineReader lines, const std::string& header,
                                                     TraceReadOptions options, const CsvLayout& layout) {
  ORRERY_TRY(columns, read_header(lines, header, layout));
  return std::unique_ptr<TraceReader>(new CsvReader(std::move(lines), options, layout, std::move(columns)));
}

}  // namespace

Result<std::unique_ptr<TraceReader>> make_azure_reader(LineReader lines, const std::string& header,
                                                       TraceReadOptions options) {
  return make_csv_reader(std::move(lines), header, options, azure_layout());
}

Result<std::unique_ptr<TraceReader>> make_burstgpt_reader(LineReader lines, const std::string& header,
                                                          TraceReadOptions options) {
  return make_csv_reader(std::move(lines), header, options, burstgpt_layout());
}

}  // namespace orrery
