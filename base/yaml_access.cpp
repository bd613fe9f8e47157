// The typed accessors of a YAML node.
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "base/yaml_tree.h"

namespace orrery {

bool plain_number_shape(const std::string& t) {  // JSON's numbers: no leading zeros, no '+', no '.5'
  std::size_t i = t.starts_with('-') ? 1 : 0;
  const auto digits = [&] {
    const std::size_t from = i;
    while (i < t.size() && t[i] >= '0' && t[i] <= '9') ++i;
    return i - from;
  };
  const std::size_t first = i, whole = digits();
  if (whole == 0 || (whole > 1 && t[first] == '0')) return false;
  if (i < t.size() && t[i] == '.') {
    ++i;
    if (digits() == 0) return false;
  }
  if (i < t.size() && (t[i] == 'e' || t[i] == 'E')) {
    ++i;
    if (i < t.size() && (t[i] == '+' || t[i] == '-')) ++i;
    if (digits() == 0) return false;
  }
  return i == t.size();
}

namespace {

std::string what_it_is(const YamlTree& n) {
  switch (n.kind) {
    case YamlTree::Kind::null: return "nothing";
    case YamlTree::Kind::list: return "a list";
    case YamlTree::Kind::map: return "a map";
    case YamlTree::Kind::scalar: return quote(n.scalar);
  }
  return "";
}

std::string range_text(const std::string& low, const std::string& high, bool has_low, bool has_high) {
  if (has_low && has_high) return " from " + low + " to " + high;
  if (has_low) return " of at least " + low;
  return has_high ? " of at most " + high : "";
}

std::string number_text(double v) {
  char buffer[40];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, v).ptr);
}

}  // namespace

bool Yaml::is_map() const { return present() && node_->kind == YamlTree::Kind::map; }
bool Yaml::is_list() const { return present() && node_->kind == YamlTree::Kind::list; }
bool Yaml::is_scalar() const { return present() && node_->kind == YamlTree::Kind::scalar; }
bool Yaml::is_null() const { return present() && node_->kind == YamlTree::Kind::null; }
SourceLocation Yaml::where() const { return present() ? node_->where : SourceLocation{}; }
const std::string& Yaml::path() const {
  static const std::string none;
  return present() ? node_->path : none;
}

void Yaml::fail(std::string message) const {
  if (errors_ != nullptr) report(*errors_, invalid_input(std::move(message), where(), path()));
}

Yaml Yaml::optional(std::string_view key) const {
  if (!present()) return {};
  if (!is_map()) {
    if (!is_null() && node_->asked_keys.empty()) fail("expected a map, found " + what_it_is(*node_));
    node_->asked_keys.emplace_back(key);
    return {};
  }
  node_->asked_keys.emplace_back(key);
  auto* entry = node_->find(key);
  if (entry == nullptr) return {};
  entry->asked = true;
  return {entry->value.get(), errors_};
}

Yaml Yaml::require(std::string_view key) const {
  if (!present()) return {};
  const Yaml child = optional(key);
  if (!child.present() && (is_map() || is_null())) {
    report(*errors_, invalid_input("the key is missing", where(), child_path(path(), key)));
  }
  return child;
}

std::vector<std::pair<std::string, Yaml>> Yaml::entries() const {
  std::vector<std::pair<std::string, Yaml>> out;
  if (!present() || is_null()) return out;
  if (!is_map()) {
    fail("expected a map, found " + what_it_is(*node_));
    return out;
  }
  for (auto& e : node_->entries) {
    e.asked = true;
    out.emplace_back(e.key, Yaml(e.value.get(), errors_));
  }
  return out;
}

std::vector<Yaml> Yaml::items() const {
  std::vector<Yaml> out;
  if (!present()) return out;
  if (!is_list()) {
    fail("expected a list, found " + what_it_is(*node_));
    return out;
  }
  for (auto& item : node_->items) out.emplace_back(item.get(), errors_);
  return out;
}

std::string Yaml::scalar_text() const { return is_scalar() ? node_->scalar : std::string(); }
bool Yaml::quoted() const { return is_scalar() && node_->quoted; }

std::string Yaml::text(std::string fallback) const {
  if (!present()) return fallback;
  if (is_scalar()) return node_->scalar;
  fail("expected text, found " + what_it_is(*node_));
  return fallback;
}

std::int64_t Yaml::integer(std::int64_t fallback, std::int64_t low, std::int64_t high) const {
  if (!present()) return fallback;
  std::int64_t value = 0;
  const std::string& t = node_->scalar;
  const bool shaped = is_scalar() && !node_->quoted && plain_number_shape(t);
  const auto parsed = std::from_chars(t.data(), t.data() + t.size(), value);
  if (shaped && parsed.ec == std::errc() && parsed.ptr == t.data() + t.size() && value >= low &&
      value <= high) {
    return value;
  }
  using Limits = std::numeric_limits<std::int64_t>;
  fail("expected a whole number" +
       range_text(std::to_string(low), std::to_string(high), low != Limits::min(), high != Limits::max()) +
       ", found " + what_it_is(*node_));
  return fallback;
}

double Yaml::number(double fallback, double low, double high) const {
  if (!present()) return fallback;
  double value = 0;
  const std::string& t = node_->scalar;
  const bool shaped = is_scalar() && !node_->quoted && plain_number_shape(t);
  const auto parsed = std::from_chars(t.data(), t.data() + t.size(), value);
  if (shaped && parsed.ec == std::errc() && std::isfinite(value) && value >= low && value <= high)
    return value;
  fail("expected a number" +
       range_text(number_text(low), number_text(high), std::isfinite(low), std::isfinite(high)) + ", found " +
       what_it_is(*node_));
  return fallback;
}

bool Yaml::boolean(bool fallback) const {
  if (!present()) return fallback;
  if (is_scalar() && !node_->quoted && node_->scalar == "true") return true;
  if (is_scalar() && !node_->quoted && node_->scalar == "false") return false;
  fail("expected true or false, found " + what_it_is(*node_));
  return fallback;
}

std::size_t Yaml::choice(const std::vector<std::string>& names) const {
  if (!present()) return 0;
  for (std::size_t i = 0; is_scalar() && i < names.size(); ++i) {
    if (names[i] == node_->scalar) return i;
  }
  fail("expected one of " + join(names, ", ") + "; found " + what_it_is(*node_) +
       did_you_mean(scalar_text(), names));
  return 0;
}

}  // namespace orrery
