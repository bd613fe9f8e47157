#include "workloads/generators/servegen_profile.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "workloads/readers/csv.h"
#include "workloads/trace_reader.h"

namespace orrery {

namespace {

constexpr std::string_view kTraceSuffix = "-trace.csv";

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

// A row: start (s), rate, coefficient of variation, Gamma | Weibull | nothing, shape, scale.
Result<ServegenWindow> parse_window(const std::vector<std::string_view>& fields,
                                    const SourceLocation& where) {
  if (fields.size() != 6) {
    return invalid_input(
        "expected six columns (start_s,rate,cv,pattern,shape,scale), found " + std::to_string(fields.size()),
        where);
  }
  ServegenWindow window;
  double* const targets[] = {&window.start_s, &window.rate, nullptr, nullptr, &window.shape, &window.scale};
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (targets[i] == nullptr) continue;
    const std::optional<double> value = parse_number(fields[i]);
    if (!value || *value < 0)
      return invalid_input("expected a number of at least 0, found " + quote(fields[i]), where);
    *targets[i] = *value;
  }
  if (window.rate == 0) return window;
  window.weibull = fields[3] == "Weibull";
  if (!window.weibull && fields[3] != "Gamma") {
    return invalid_input("expected the pattern Gamma or Weibull, found " + quote(fields[3]), where);
  }
  if (!(window.shape > 0) || !(window.scale > 0))
    return invalid_input("expected shape and scale greater than 0", where);
  return window;
}

Result<std::vector<ServegenWindow>> load_windows(const std::string& path) {
  ORRERY_TRY(lines, LineReader::open(path));
  std::vector<ServegenWindow> windows;
  std::vector<std::string_view> fields;
  std::string_view line;
  while (lines.next(line)) {
    if (line.empty()) continue;
    const SourceLocation where{path, static_cast<int>(lines.line_number()), 0};
    split_csv(line, fields);
    ORRERY_TRY(window, parse_window(fields, where));
    const double step = windows.size() < 2 ? 0 : windows[1].start_s - windows[0].start_s;
    if (!windows.empty() && (window.start_s <= windows.back().start_s ||
                             (step > 0 && window.start_s != windows.back().start_s + step))) {
      return invalid_input("windows must follow each other at equal distances", where);
    }
    windows.push_back(window);
  }
  if (lines.error() != nullptr) return *lines.error();
  if (windows.size() < 2) return invalid_input("expected at least two windows", SourceLocation{path, 0, 0});
  return windows;
}

// The published value is a Python dictionary in a text: "{60: 0.21, 61: 0.08}".
Result<TokenDistribution> parse_distribution(std::string_view text, const std::string& path,
                                             const std::string& key) {
  const Error bad = invalid_input(
      "expected \"{tokens: probability, …}\" with rising tokens and probabilities that add up to 1",
      SourceLocation{path, 0, 0}, key);
  if (text.size() < 2 || text.front() != '{' || text.back() != '}') return bad;
  text = text.substr(1, text.size() - 2);
  TokenDistribution result;
  double sum = 0;
  std::vector<std::string_view> items;
  if (text.find_first_not_of(' ') == std::string_view::npos) return result;
  split_csv(text, items);
  for (const std::string_view item : items) {
    const std::size_t colon = item.find(':');
    if (colon == std::string_view::npos) return bad;
    const auto tokens = parse_whole(item.substr(0, colon));
    std::string_view share_text = item.substr(colon + 1);
    while (!share_text.empty() && share_text.front() == ' ') share_text.remove_prefix(1);
    const auto share = parse_number(share_text);
    if (!tokens || !share || *share < 0 || *tokens > kMaxTokens) return bad;
    if (!result.tokens.empty() && *tokens <= result.tokens.back()) return bad;
    sum += *share;
    // A length of 0 cannot be simulated; its share goes to 1.
    result.tokens.push_back(static_cast<std::int32_t>(std::max<std::int64_t>(1, *tokens)));
    result.cumulated.push_back(sum);
  }
  if (std::abs(sum - 1) > 1e-6) return bad;
  for (double& c : result.cumulated) c /= sum;
  result.cumulated.back() = 1;
  return result;
}

Result<std::vector<ServegenLengths>> load_lengths(const std::string& path) {
  ORRERY_TRY(json, load_json(path));
  std::vector<ServegenLengths> all;
  for (const auto& [start, fields] : json.items()) {
    ServegenLengths lengths;
    const auto start_s = parse_number(start);
    if (!start_s || !fields.is_object()) {
      return invalid_input("expected {\"<start in s>\": {\"input_tokens\": …, \"output_tokens\": …}}",
                           {path, 0, 0}, start);
    }
    lengths.start_s = *start_s;
    for (const auto& [name, value] : fields.items()) {
      const std::string key = start + "." + name;
      if (name == "reason_ratio") continue;
      if (name != "input_tokens" && name != "output_tokens") {
        return invalid_input(
            "Orrery reads ServeGen's language and reasoning clients; the field is not modelled", {path, 0, 0},
            key);
      }
      if (!value.is_string())
        return invalid_input("expected a text \"{tokens: probability, …}\"", {path, 0, 0}, key);
      ORRERY_TRY(distribution, parse_distribution(value.get_ref<const std::string&>(), path, key));
      (name == "input_tokens" ? lengths.input : lengths.output) = std::move(distribution);
    }
    all.push_back(std::move(lengths));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.start_s < b.start_s; });
  return all;
}

std::optional<std::uint64_t> client_id(const std::string& file_name) {
  if (file_name.rfind("chunk-", 0) != 0 || file_name.size() <= 6 + kTraceSuffix.size()) return std::nullopt;
  const std::string_view name(file_name);
  if (name.substr(name.size() - kTraceSuffix.size()) != kTraceSuffix) return std::nullopt;
  const auto id = parse_whole(name.substr(6, name.size() - 6 - kTraceSuffix.size()));
  if (!id) return std::nullopt;
  return static_cast<std::uint64_t>(*id);
}

}  // namespace

Result<std::vector<ServegenClient>> load_servegen(const std::string& folder) {
  std::vector<std::uint64_t> ids;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(folder, code)) {
    if (const auto id = client_id(entry.path().filename().string())) ids.push_back(*id);
  }
  if (ids.empty()) {
    return invalid_input(
        "no ServeGen client here; expected a folder with chunk-1-trace.csv, chunk-1-dataset.json, …",
        SourceLocation{folder, 0, 0}, "generator.servegen.folder");
  }
  std::sort(ids.begin(), ids.end());
  std::vector<ServegenClient> clients;
  for (const std::uint64_t id : ids) {
    const std::string base = folder + "/chunk-" + std::to_string(id);
    ServegenClient client;
    client.id = id;
    ORRERY_TRY(windows, load_windows(base + "-trace.csv"));
    if (!std::filesystem::exists(base + "-dataset.json", code)) {
      return invalid_input("the client has no length distributions; expected this file beside chunk-" +
                               std::to_string(id) + "-trace.csv (ServeGen's repository has it)",
                           SourceLocation{base + "-dataset.json", 0, 0});
    }
    ORRERY_TRY(lengths, load_lengths(base + "-dataset.json"));
    client.windows = std::move(windows);
    client.lengths = std::move(lengths);
    clients.push_back(std::move(client));
  }
  return clients;
}

}  // namespace orrery
