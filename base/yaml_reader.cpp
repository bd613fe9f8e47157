#include "base/yaml_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

struct YamlTree {
  enum class Kind { null, scalar, list, map } kind = Kind::null;
  struct Entry {
    std::string key;
    SourceLocation where;
    std::unique_ptr<YamlTree> value;
    bool asked = false;
  };
  SourceLocation where;
  std::string path;
  std::string scalar;
  bool quoted = false;
  std::vector<std::unique_ptr<YamlTree>> items;
  std::vector<Entry> entries;
  std::vector<std::string> asked_keys;  // every key that a reader offered, for did-you-mean

  Entry* find(std::string_view key) {
    for (Entry& e : entries) {
      if (e.key == key) return &e;
    }
    return nullptr;
  }
};

struct YamlDocument::State {
  std::string file;
  std::unique_ptr<YamlTree> root;
  Errors errors;
};

namespace {

constexpr std::size_t depth_limit = 100;

std::string child_path(const std::string& parent, std::string_view key) {
  return parent.empty() ? std::string(key) : parent + "." + std::string(key);
}

void set_paths(YamlTree& node, const std::string& path) {
  node.path = path;
  for (std::size_t i = 0; i < node.items.size(); ++i) set_paths(*node.items[i], path + "[" + std::to_string(i) + "]");
  for (auto& e : node.entries) set_paths(*e.value, child_path(path, e.key));
}

// Builds our tree from yaml-cpp's events; refuses what a configuration file has no use for.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(std::string file, Errors& errors) : file_(std::move(file)), errors_(errors) {}
  std::unique_ptr<YamlTree> take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { leaf(mark, YamlTree::Kind::null, "", false); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    errors_.push_back(invalid_input("aliases (*name) are not supported; write the value out", place(mark)));
    leaf(mark, YamlTree::Kind::null, "", false);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    if (tag != "?" && tag != "!" && !tag.empty()) {
      errors_.push_back(invalid_input("tags (" + tag + ") are not supported", place(mark)));
    }
    leaf(mark, YamlTree::Kind::scalar, value, tag == "!");
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, YamlTree::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, YamlTree::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlTree* node;
    bool has_key = false;
    std::string key;
    SourceLocation key_where;
  };

  SourceLocation place(const YAML::Mark& mark) const { return {file_, mark.line + 1, mark.column + 1}; }

  void leaf(const YAML::Mark& mark, YamlTree::Kind kind, const std::string& text, bool quoted) {
    if (!levels_.empty() && levels_.back().node->kind == YamlTree::Kind::map && !levels_.back().has_key) {
      if (kind == YamlTree::Kind::null) errors_.push_back(invalid_input("a key is missing before ':'", place(mark)));
      levels_.back().has_key = true;
      levels_.back().key = text;
      levels_.back().key_where = place(mark);
      return;
    }
    auto node = std::make_unique<YamlTree>();
    node->kind = kind;
    node->where = place(mark);
    node->scalar = text;
    node->quoted = quoted;
    attach(std::move(node));
  }

  YamlTree* attach(std::unique_ptr<YamlTree> node) {
    YamlTree* raw = node.get();
    if (levels_.empty()) {
      root_ = std::move(node);
      return raw;
    }
    Level& level = levels_.back();
    if (level.node->kind == YamlTree::Kind::list) {
      level.node->items.push_back(std::move(node));
      return raw;
    }
    level.has_key = false;
    if (const auto* first = level.node->find(level.key)) {
      errors_.push_back(invalid_input("duplicate key " + quote(level.key) + "; it stands in line " +
                                          std::to_string(first->where.line) + " already",
                                      level.key_where));
      orphans_.push_back(std::move(node));
      return raw;
    }
    level.node->entries.push_back({level.key, level.key_where, std::move(node), false});
    return raw;
  }

  void open(const YAML::Mark& mark, YamlTree::Kind kind) {
    if (!levels_.empty() && levels_.back().node->kind == YamlTree::Kind::map && !levels_.back().has_key) {
      errors_.push_back(invalid_input("a key must be plain text, not a list or map", place(mark)));
      levels_.back().has_key = true;
      levels_.back().key = "";
      levels_.back().key_where = place(mark);
    }
    auto node = std::make_unique<YamlTree>();
    node->kind = kind;
    node->where = place(mark);
    levels_.push_back({attach(std::move(node)), false, "", {}});
  }
  void close() { levels_.pop_back(); }

  std::string file_;
  Errors& errors_;
  std::unique_ptr<YamlTree> root_;
  std::vector<std::unique_ptr<YamlTree>> orphans_;
  std::vector<Level> levels_;
};

// yaml-cpp parses by recursion, so depth is bounded before it sees the text: brackets and indentation.
bool too_deep(const std::string& text, int& line) {
  std::size_t brackets = 0, column = 0;
  bool indenting = true;
  std::size_t dashes = 0;
  line = 1;
  for (const char c : text) {
    if (c == '\n') {
      ++line;
      column = 0;
      dashes = 0;
      indenting = true;
      continue;
    }
    ++column;
    if (indenting && c == '-') ++dashes;
    if (indenting && c != ' ' && c != '-' && c != '?') indenting = false;
    if (c == '[' || c == '{') ++brackets;
    if ((c == ']' || c == '}') && brackets > 0) --brackets;
    if (brackets > depth_limit || dashes > depth_limit || (indenting && column > 8 * depth_limit)) return true;
  }
  return false;
}

bool valid_utf8(const std::string& text, std::size_t& at) {
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const std::size_t n = c < 0x80 ? 1 : (c >> 5) == 6 ? 2 : (c >> 4) == 14 ? 3 : (c >> 3) == 30 ? 4 : 0;
    at = i;
    if (n == 0 || i + n > text.size()) return false;
    for (std::size_t k = 1; k < n; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) >> 6) != 2) return false;
    }
    i += n;
  }
  return true;
}

SourceLocation place_of_byte(const std::string& text, std::size_t byte, const std::string& file) {
  const auto lines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(byte), '\n');
  const std::size_t start = text.rfind('\n', byte == 0 ? 0 : byte - 1);
  return {file, static_cast<int>(lines) + 1, static_cast<int>(byte - (start == std::string::npos ? 0 : start + 1)) + 1};
}

std::unique_ptr<YamlTree> build_tree(const std::string& text, const std::string& file, Errors& errors) {
  std::size_t at = 0;
  if (!valid_utf8(text, at)) {
    errors.push_back(invalid_input("is not valid UTF-8 here", place_of_byte(text, at, file)));
    return nullptr;
  }
  int line = 0;
  if (too_deep(text, line)) {
    errors.push_back(invalid_input("is nested deeper than " + std::to_string(depth_limit) + " levels", {file, line, 0}));
    return nullptr;
  }
  TreeBuilder builder(file, errors);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      errors.push_back(invalid_input("is empty; a YAML map was expected", {file, 0, 0}));
      return nullptr;
    }
    auto root = builder.take_root();
    TreeBuilder second(file, errors);
    if (parser.HandleNextDocument(second)) {
      errors.push_back(invalid_input("holds more than one YAML document; one was expected", {file, 0, 0}));
    }
    return root;
  } catch (const YAML::Exception& e) {
    errors.push_back(invalid_input("invalid YAML: " + e.msg, {file, e.mark.line + 1, e.mark.column + 1}));
    return nullptr;
  }
}

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

bool needs_quotes(const YamlTree& n) {
  if (n.quoted || n.scalar.empty()) return true;
  return n.scalar.find_first_of(":#{}[],&*!|>'\"%@`\n\t") != std::string::npos || n.scalar.front() == '-' ||
         n.scalar.front() == '?' || n.scalar.front() == ' ' || n.scalar.back() == ' ';
}

void dump_node(const YamlTree& n, int indent, std::string& out) {
  const std::string pad(static_cast<std::size_t>(indent) * 2, ' ');
  switch (n.kind) {
    case YamlTree::Kind::null: out += " ~\n"; break;
    case YamlTree::Kind::scalar: {
      if (!needs_quotes(n) || plain_number_shape(n.scalar)) {
        out += " " + (n.quoted && plain_number_shape(n.scalar) ? "\"" + n.scalar + "\"" : n.scalar) + "\n";
        break;
      }
      out += " \"";
      for (const char c : n.scalar) {
        if (c == '"' || c == '\\') out += '\\';
        if (c == '\n') out += "\\n";
        else if (c == '\t') out += "\\t";
        else out += c;
      }
      out += "\"\n";
      break;
    }
    case YamlTree::Kind::list:
      out += n.items.empty() ? " []\n" : "\n";
      for (const auto& item : n.items) {
        out += pad + "-";
        dump_node(*item, indent + 1, out);
      }
      break;
    case YamlTree::Kind::map:
      out += n.entries.empty() ? " {}\n" : "\n";
      for (const auto& e : n.entries) {
        out += pad + e.key + ":";
        dump_node(*e.value, indent + 1, out);
      }
      break;
  }
}

}  // namespace

// ---------------------------------------------------------------------------------------------------- Yaml

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
  if (errors_ != nullptr) errors_->push_back(invalid_input(std::move(message), where(), path()));
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
    errors_->push_back(invalid_input("the key is missing", where(), child_path(path(), key)));
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
  if (shaped && parsed.ec == std::errc() && parsed.ptr == t.data() + t.size() && value >= low && value <= high) {
    return value;
  }
  using Limits = std::numeric_limits<std::int64_t>;
  fail("expected a whole number" + range_text(std::to_string(low), std::to_string(high), low != Limits::min(), high != Limits::max()) +
       ", found " + what_it_is(*node_));
  return fallback;
}

double Yaml::number(double fallback, double low, double high) const {
  if (!present()) return fallback;
  double value = 0;
  const std::string& t = node_->scalar;
  const bool shaped = is_scalar() && !node_->quoted && plain_number_shape(t);
  const auto parsed = std::from_chars(t.data(), t.data() + t.size(), value);
  if (shaped && parsed.ec == std::errc() && std::isfinite(value) && value >= low && value <= high) return value;
  fail("expected a number" + range_text(number_text(low), number_text(high), std::isfinite(low), std::isfinite(high)) +
       ", found " + what_it_is(*node_));
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
  fail("expected one of " + join(names, ", ") + "; found " + what_it_is(*node_) + did_you_mean(scalar_text(), names));
  return 0;
}

// ------------------------------------------------------------------------------------------- YamlDocument

YamlDocument::YamlDocument(std::unique_ptr<State> state) : state_(std::move(state)) {}
YamlDocument::YamlDocument(YamlDocument&&) noexcept = default;
YamlDocument& YamlDocument::operator=(YamlDocument&&) noexcept = default;
YamlDocument::~YamlDocument() = default;

Result<YamlDocument> YamlDocument::parse(const std::string& text, const std::string& file_name) {
  auto state = std::make_unique<State>();
  state->file = file_name;
  state->root = build_tree(text, file_name, state->errors);
  if (state->root == nullptr) return state->errors;
  set_paths(*state->root, "");
  return YamlDocument(std::move(state));
}

Result<YamlDocument> YamlDocument::load(const std::string& path) {
  ORRERY_TRY(text, read_text_file(path, 8u << 20));
  return parse(text, path);
}

Yaml YamlDocument::root() const { return {state_->root.get(), &state_->errors}; }
const Errors& YamlDocument::errors() const { return state_->errors; }
const std::string& YamlDocument::file() const { return state_->file; }

std::string YamlDocument::dump() const {
  std::string out;
  dump_node(*state_->root, 0, out);
  if (out.starts_with('\n')) out.erase(0, 1);
  return out;
}

namespace {

void report_unknown(const YamlTree& node, Errors& errors) {
  for (const auto& item : node.items) report_unknown(*item, errors);
  for (const auto& e : node.entries) {
    if (e.asked) {
      report_unknown(*e.value, errors);
    } else {
      errors.push_back(invalid_input("unknown key" + did_you_mean(e.key, node.asked_keys), e.where, e.value->path));
    }
  }
}

struct PathStep {
  std::string key;
  std::ptrdiff_t index = -1;  // list index, or −1 for a key
};

bool parse_path(const std::string& text, std::vector<PathStep>& steps) {
  std::size_t i = 0;
  while (i < text.size()) {
    if (text[i] == '[') {
      const std::size_t end = text.find(']', i);
      std::ptrdiff_t index = -1;
      if (end == std::string::npos) return false;
      const auto r = std::from_chars(text.data() + i + 1, text.data() + end, index);
      if (r.ec != std::errc() || r.ptr != text.data() + end || index < 0) return false;
      steps.push_back({"", index});
      i = end + 1;
      if (i < text.size() && text[i] == '.') ++i;
      continue;
    }
    std::size_t end = text.find_first_of(".[", i);
    if (end == std::string::npos) end = text.size();
    if (end == i) return false;
    steps.push_back({text.substr(i, end - i), -1});
    i = end;
    if (i < text.size() && text[i] == '.' && ++i == text.size()) return false;
  }
  return !steps.empty();
}

}  // namespace

void YamlDocument::finish() const { report_unknown(*state_->root, state_->errors); }

Status YamlDocument::set(const std::string& assignment) {
  const SourceLocation where{"--set " + assignment, 0, 0};
  const std::size_t equals = assignment.find('=');
  std::vector<PathStep> steps;
  if (equals == std::string::npos || !parse_path(assignment.substr(0, equals), steps)) {
    return make_error(ErrorKind::usage, "expected path.to.key=value", where);
  }
  Errors errors;
  std::string value = assignment.substr(equals + 1);
  auto fresh = build_tree(value.empty() ? "~" : value, where.file, errors);
  if (!errors.empty()) return errors;
  YamlTree* node = state_->root.get();
  std::unique_ptr<YamlTree>* place = &state_->root;
  for (const PathStep& step : steps) {
    if (step.index >= 0) {
      if (node->kind != YamlTree::Kind::list || static_cast<std::size_t>(step.index) >= node->items.size()) {
        return invalid_input("there is no element [" + std::to_string(step.index) + "]", where, node->path);
      }
      place = &node->items[static_cast<std::size_t>(step.index)];
    } else {
      if (node->kind == YamlTree::Kind::null) node->kind = YamlTree::Kind::map;
      if (node->kind != YamlTree::Kind::map) return invalid_input("is not a map, so it has no key " + quote(step.key), where, node->path);
      auto* entry = node->find(step.key);
      if (entry == nullptr) {
        auto child = std::make_unique<YamlTree>();
        child->where = where;
        child->path = child_path(node->path, step.key);
        node->entries.push_back({step.key, where, std::move(child), false});
        entry = &node->entries.back();
      }
      place = &entry->value;
    }
    node = place->get();
  }
  const std::string path = node->path;
  set_paths(*fresh, path);
  *place = std::move(fresh);
  return ok_status();
}

}  // namespace orrery
