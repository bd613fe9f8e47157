// One JSON object of a benchmark client, read key by key, with all problems located.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace orrery {

class BenchmarkJson {
 public:
  // `text` begins in line `line` of the file. Python's json writes NaN and Infinity, which JSON does not
  // have; they are accepted.
  static Result<BenchmarkJson> parse(std::string text, const std::string& path, int line);

  const Json& root() const { return root_; }
  bool has(const std::string& key) const { return root_.contains(key) && !root_[key].is_null(); }
  // Nothing when the key is missing, null or not a number (NaN). Infinity only for a rate.
  std::optional<double> number(const std::string& key);
  std::optional<std::uint64_t> count(const std::string& key);             // whole, 0 … 1e15
  std::string text(const std::string& key);                               // "" when it is missing or null
  std::vector<double> numbers(const std::string& key, std::size_t size);  // finite; `size` of them
  std::vector<std::int32_t> lengths(const std::string& key, std::size_t size);  // tokens, 0 … kMaxTokens
  void fail(const std::string& key, std::string message);
  Error error(const std::string& key, std::string message) const;  // at the key's place
  const Errors& errors() const { return errors_; }

  static bool is_infinite(const Json& value);
  static bool is_nan(const Json& value);

 private:
  const Json* list(const std::string& key, std::size_t size);

  std::string text_, path_;
  int line_ = 1;
  Json root_;
  Errors errors_;
};

}  // namespace orrery
