#include "workloads/benchmark_json.h"

#include <cmath>
#include <utility>

#include "workloads/trace_reader.h"

namespace orrery {

namespace {

// Strings of the same length stand in for Python's words, so that places in the text stay true.
constexpr std::pair<std::string_view, std::string_view> kPythonWords[] = {
    {"-Infinity", R"("-inf"   )"}, {"Infinity", R"("inf"   )"}, {"NaN", R"("?")"}};

void replace_python_words(std::string& text) {
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string && (text[i] == '-' || text[i] == 'I' || text[i] == 'N')) {
      for (const auto& [word, instead] : kPythonWords) {
        if (text.compare(i, word.size(), word) != 0) continue;
        text.replace(i, word.size(), instead);
        i += word.size() - 1;
        break;
      }
    }
  }
}

}  // namespace

Result<BenchmarkJson> BenchmarkJson::parse(std::string text, const std::string& path, int line) {
  BenchmarkJson out;
  replace_python_words(text);
  auto root = parse_json(text, path);
  if (!root.ok()) {
    Errors errors = root.errors();
    for (Error& e : errors) e.where.line += line - 1;
    return errors;
  }
  out.text_ = std::move(text);
  out.path_ = path;
  out.line_ = line;
  out.root_ = std::move(root).value();
  if (!out.root_.is_object())
    return invalid_input("expected the JSON object of a benchmark run", {path, line, 1});
  return out;
}

bool BenchmarkJson::is_infinite(const Json& value) {
  if (value.is_string()) return value.get_ref<const std::string&>() == "inf";
  return value.is_number_float() && std::isinf(value.get<double>()) && value.get<double>() > 0;
}

bool BenchmarkJson::is_nan(const Json& value) {
  return value.is_string() && value.get_ref<const std::string&>() == "?";
}

Error BenchmarkJson::error(const std::string& key, std::string message) const {
  SourceLocation where{path_, line_, 0};
  const std::size_t at = text_.find("\"" + key + "\":");
  if (!key.empty() && at != std::string::npos) {
    where = locate(text_, at, path_);
    where.line += line_ - 1;
  }
  return invalid_input(std::move(message), std::move(where), key);
}

void BenchmarkJson::fail(const std::string& key, std::string message) {
  errors_.push_back(error(key, std::move(message)));
}

std::optional<double> BenchmarkJson::number(const std::string& key) {
  if (!has(key) || is_nan(root_[key])) return std::nullopt;
  const Json& value = root_[key];
  if (value.is_number() && std::isfinite(value.get<double>())) return value.get<double>();
  fail(key, "expected a number");
  return std::nullopt;
}

std::optional<std::uint64_t> BenchmarkJson::count(const std::string& key) {
  if (!has(key)) return std::nullopt;
  const Json& value = root_[key];
  constexpr std::uint64_t most = 1'000'000'000'000'000;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() <= most) return value.get<std::uint64_t>();
  fail(key, "expected a whole number from 0");
  return std::nullopt;
}

std::string BenchmarkJson::text(const std::string& key) {
  if (!has(key)) return "";
  if (root_[key].is_string()) return root_[key].get<std::string>();
  fail(key, "expected text");
  return "";
}

const Json* BenchmarkJson::list(const std::string& key, std::size_t size) {
  if (!has(key)) return nullptr;
  const Json& value = root_[key];
  if (value.is_array() && value.size() == size) return &value;
  fail(key, "expected a list of " + std::to_string(size) + " values, one a request, as in input_lens");
  return nullptr;
}

std::vector<double> BenchmarkJson::numbers(const std::string& key, std::size_t size) {
  std::vector<double> out;
  const Json* values = list(key, size);
  if (values == nullptr) return out;
  for (const Json& value : *values) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      fail(key, "request " + std::to_string(out.size()) + ": expected a number of seconds");
      return {};
    }
    out.push_back(value.get<double>());
  }
  return out;
}

std::vector<std::int32_t> BenchmarkJson::lengths(const std::string& key, std::size_t size) {
  std::vector<std::int32_t> out;
  const Json* values = list(key, size);
  if (values == nullptr) return out;
  for (const Json& value : *values) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(kMaxTokens)) {
      fail(key, "request " + std::to_string(out.size()) + ": expected a whole number of tokens from 0 to " +
                    std::to_string(kMaxTokens));
      return {};
    }
    out.push_back(value.get<std::int32_t>());
  }
  return out;
}

}  // namespace orrery
