#include "base/json.h"

#include <charconv>
#include <cmath>
#include <iterator>
#include <map>
#include <string_view>

#include "base/files.h"
#include "base/text.h"
#include "base/time.h"

namespace orrery {

namespace {

void write_string(const std::string& text, std::string& out) {
  out += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_value(const Json& value, std::size_t depth, std::string& out) {
  const auto indent = [&](std::size_t d) { out.append(2 * d, ' '); };
  if (value.is_object() || value.is_array()) {
    const bool object = value.is_object();
    if (value.empty()) {
      out += object ? "{}" : "[]";
      return;
    }
    out += object ? "{\n" : "[\n";
    bool first = true;
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (!first) out += ",\n";
      first = false;
      indent(depth + 1);
      if (object) {
        write_string(it.key(), out);
        out += ": ";
      }
      write_value(*it, depth + 1, out);
    }
    out += '\n';
    indent(depth);
    out += object ? '}' : ']';
  } else if (value.is_number_float()) {
    const std::string number = format_number(value.get<double>());
    out += number.empty() ? "null" : number;
  } else if (value.is_string()) {
    write_string(value.get_ref<const std::string&>(), out);
  } else {
    out += value.dump();
  }
}

constexpr std::size_t depth_limit = 200;

// Hands the text to the parser and remembers how far it has come: nlohmann tells its handlers no positions.
class WatchedIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  WatchedIterator(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  WatchedIterator& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  WatchedIterator operator++(int) {
    const WatchedIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const WatchedIterator& a, const WatchedIterator& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  const char** reached_;
};

// Where the string literal starts whose closing quote is the last character of `read`.
std::size_t start_of_literal(std::string_view read) {
  for (std::size_t i = read.size() - 1; i-- > 0;) {
    if (read[i] != '"') continue;
    std::size_t backslashes = 0;
    while (backslashes < i && read[i - 1 - backslashes] == '\\') ++backslashes;
    if (backslashes % 2 == 0) return i;
  }
  return 0;
}

// Watches a parse for what nlohmann accepts and we do not: duplicate keys and deep nesting.
struct StrictSax final : nlohmann::json_sax<Json> {
  const std::string& text;
  const char* reached;  // the parser has read the text up to here
  nlohmann::detail::json_sax_dom_parser<Json> dom;
  std::vector<std::map<std::string, std::size_t>> keys;  // of the open objects and lists, with their places
  std::string problem;
  std::size_t position = 0;

  StrictSax(const std::string& whole, Json& result)
      : text(whole), reached(whole.data()), dom(result, false) {}
  std::size_t read_bytes() const { return static_cast<std::size_t>(reached - text.data()); }
  bool null() override { return dom.null(); }
  bool boolean(bool v) override { return dom.boolean(v); }
  bool number_integer(number_integer_t v) override { return dom.number_integer(v); }
  bool number_unsigned(number_unsigned_t v) override { return dom.number_unsigned(v); }
  bool number_float(number_float_t v, const string_t& s) override { return dom.number_float(v, s); }
  bool string(string_t& v) override { return dom.string(v); }
  bool binary(binary_t& v) override { return dom.binary(v); }
  bool start_object(std::size_t n) override {
    keys.emplace_back();
    return deep() && dom.start_object(n);
  }
  bool end_object() override {
    keys.pop_back();
    return dom.end_object();
  }
  bool start_array(std::size_t n) override {
    keys.emplace_back();
    return deep() && dom.start_array(n);
  }
  bool end_array() override {
    keys.pop_back();
    return dom.end_array();
  }
  bool key(string_t& v) override {
    const std::size_t at = start_of_literal(std::string_view(text).substr(0, read_bytes()));
    const auto [first, is_new] = keys.back().emplace(v, at);
    if (is_new) return dom.key(v);
    problem = "duplicate key " + quote(v) + "; it stands in line " +
              std::to_string(locate(text, first->second, "").line) + " already";
    position = at;
    return false;
  }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception& e) override {
    problem = e.what();
    position = at > 0 ? at - 1 : 0;
    const auto tag = problem.find("] ");  // "[json.exception.parse_error.101] parse error at line …: syntax
                                          // error …"
    const auto syntax = problem.find("syntax error");
    if (syntax != std::string::npos)
      problem.erase(0, syntax);
    else if (tag != std::string::npos)
      problem.erase(0, tag + 2);
    return false;
  }
  bool deep() {
    if (keys.size() <= depth_limit) return true;
    problem = "nested deeper than " + std::to_string(depth_limit) + " levels";
    position = read_bytes() - 1;
    return false;
  }
};

}  // namespace

std::string canonical_json(const Json& value) {
  std::string out;
  write_value(value, 0, out);
  return out + "\n";
}

std::string format_number(double value) {
  if (!std::isfinite(value)) return "";
  if (value == 0) return "0";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

std::string format_fixed(double value, int decimals) {
  if (!std::isfinite(value)) return "";
  char buffer[400];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, decimals).ptr;
  const std::string text(buffer, end);
  const bool negative_zero = text.starts_with('-') && text.find_first_not_of("-0.") == std::string::npos;
  return negative_zero ? text.substr(1) : text;
}

std::string format_nanoseconds_as_seconds(std::int64_t ns) {
  const bool negative = ns < 0;
  const std::uint64_t magnitude =
      negative ? 0 - static_cast<std::uint64_t>(ns) : static_cast<std::uint64_t>(ns);
  std::string fraction = std::to_string(magnitude % 1000000000u);
  return (negative ? "-" : "") + std::to_string(magnitude / 1000000000u) + "." +
         std::string(9 - fraction.size(), '0') + fraction;
}

SourceLocation locate(const std::string& text, std::size_t byte, const std::string& file_name) {
  SourceLocation where{file_name, 1, 1};
  for (std::size_t i = 0; i < byte && i < text.size(); ++i) {
    if (text[i] == '\n') {
      ++where.line;
      where.column = 1;
    } else {
      ++where.column;
    }
  }
  return where;
}

Result<Json> parse_json(const std::string& text, const std::string& file_name) {
  Json result;
  StrictSax sax(text, result);
  const WatchedIterator begin(text.data(), &sax.reached), end(text.data() + text.size(), &sax.reached);
  if (Json::sax_parse(begin, end, &sax, nlohmann::detail::input_format_t::json, true)) return result;
  return invalid_input("invalid JSON: " + sax.problem, locate(text, sax.position, file_name));
}

Result<Json> load_json(const std::string& path) {
  ORRERY_TRY(text, read_text_file(path));
  return parse_json(text, path);
}

}  // namespace orrery
