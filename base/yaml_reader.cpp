#include "base/yaml_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "base/files.h"
#include "base/text.h"
#include "base/yaml_tree.h"

namespace orrery {

namespace {

constexpr std::size_t depth_limit = 100;  // yaml-cpp, which parses by recursion, gives up at 500 itself
constexpr std::size_t error_limit = 100;

// Builds our tree from yaml-cpp's events; refuses what a configuration file has no use for.
class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, std::string file, Errors& errors)
      : text_(text), file_(std::move(file)), errors_(errors) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') line_starts_.push_back(i + 1);
    }
  }
  std::unique_ptr<YamlTree> take_root() { return std::move(root_); }
  bool too_deep() const { return too_deep_; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_extras(mark, "", anchor);
    leaf(mark, YamlTree::Kind::null, "", false);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail("aliases (*name) are not supported; write the value out", place(mark));
    leaf(mark, YamlTree::Kind::null, "", false);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_extras(mark, tag, anchor);
    if (tag == "!" && !quote_is_closed(mark))
      fail("the quoted text that starts here is never closed", place(mark));
    leaf(mark, YamlTree::Kind::scalar, value, tag == "!");
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_extras(mark, tag, anchor);
    open(mark, YamlTree::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_extras(mark, tag, anchor);
    open(mark, YamlTree::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlTree* node;
    bool has_key = false;
    std::string key;
    SourceLocation key_where;
    std::map<std::string, int> lines;  // of the keys seen
  };

  SourceLocation place(const YAML::Mark& mark) const { return {file_, mark.line + 1, mark.column + 1}; }
  void fail(std::string message, SourceLocation where) {
    report(errors_, invalid_input(std::move(message), std::move(where)));
  }

  // yaml-cpp gives "!" to quoted text and "?" or "" to what has no tag.
  void refuse_extras(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (tag != "?" && tag != "!" && !tag.empty()) fail("tags (" + tag + ") are not supported", place(mark));
    if (anchor != 0)
      fail("anchors (&name) are not supported; write the value out where it is used", place(mark));
  }

  // yaml-cpp takes the end of the file for a closing quote.
  bool quote_is_closed(const YAML::Mark& mark) const {
    if (mark.line < 0 || static_cast<std::size_t>(mark.line) >= line_starts_.size()) return true;
    std::size_t i = line_starts_[static_cast<std::size_t>(mark.line)] + static_cast<std::size_t>(mark.column);
    if (i >= text_.size() || (text_[i] != '"' && text_[i] != '\'')) return true;  // a block: | or >
    const char quotes = text_[i];
    for (++i; i < text_.size(); ++i) {
      if (text_[i] == '\\' && quotes == '"') {
        ++i;
      } else if (text_[i] == quotes) {
        if (quotes == '"' || i + 1 >= text_.size() || text_[i + 1] != '\'') return true;
        ++i;  // '' inside '…'
      }
    }
    return false;
  }

  bool wants_key() const {
    return !levels_.empty() && levels_.back().node->kind == YamlTree::Kind::map && !levels_.back().has_key;
  }
  void take_key(const YAML::Mark& mark, const std::string& text) {
    levels_.back().has_key = true;
    levels_.back().key = text;
    levels_.back().key_where = place(mark);
  }

  void leaf(const YAML::Mark& mark, YamlTree::Kind kind, const std::string& text, bool quoted) {
    if (wants_key()) {
      if (kind == YamlTree::Kind::null) fail("a key is missing before ':'", place(mark));
      take_key(mark, text);
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
    const auto seen = level.lines.emplace(level.key, level.key_where.line);
    if (!seen.second) {
      fail("duplicate key " + quote(level.key) + "; it stands in line " + std::to_string(seen.first->second) +
               " already",
           level.key_where);
      orphans_.push_back(std::move(node));
      return raw;
    }
    level.node->entries.push_back({level.key, level.key_where, std::move(node), false});
    return raw;
  }

  void open(const YAML::Mark& mark, YamlTree::Kind kind) {
    if (levels_.size() >= depth_limit && !too_deep_) {
      too_deep_ = true;
      fail("is nested deeper than " + std::to_string(depth_limit) + " levels", place(mark));
    }
    if (wants_key()) {
      fail("a key must be plain text, not a list or map", place(mark));
      take_key(mark, "");
    }
    auto node = std::make_unique<YamlTree>();
    node->kind = kind;
    node->where = place(mark);
    levels_.push_back({attach(std::move(node)), false, "", {}, {}});
  }
  void close() { levels_.pop_back(); }

  std::string_view text_;
  std::string file_;
  Errors& errors_;
  std::vector<std::size_t> line_starts_{0};
  std::unique_ptr<YamlTree> root_;
  std::vector<std::unique_ptr<YamlTree>> orphans_;
  std::vector<Level> levels_;
  bool too_deep_ = false;
};

// Length of the UTF-8 character at `i` (Unicode 15, table 3-7: no overlong forms, no surrogates), 0 =
// invalid.
std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) {
    return i + k < text.size() ? static_cast<unsigned>(static_cast<unsigned char>(text[i + k])) : 0u;
  };
  const auto follows = [&](std::size_t k) { return (byte(k) >> 6) == 2; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const bool range = (first != 0xE0 || second >= 0xA0) && (first != 0xED || second <= 0x9F);
    return range && follows(1) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const bool range = (first != 0xF0 || second >= 0x90) && (first != 0xF4 || second <= 0x8F);
    return range && follows(1) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

bool valid_utf8(std::string_view text, std::size_t& at) {
  for (at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

SourceLocation place_of_byte(std::string_view text, std::size_t byte, const std::string& file) {
  const std::string_view before = text.substr(0, byte);
  const auto lines = std::count(before.begin(), before.end(), '\n');
  const std::size_t last = before.rfind('\n');
  const std::size_t start = last == std::string_view::npos ? 0 : last + 1;
  return {file, static_cast<int>(lines) + 1, static_cast<int>(byte - start) + 1};
}

// yaml-cpp's messages do not say that a tab was the reason.
std::string tab_hint(std::string_view text, int line) {
  for (; line > 0; --line) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return "";
    text.remove_prefix(end + 1);
  }
  const std::size_t content = text.find_first_not_of(" \t");
  const bool tab = text.substr(0, content).find('\t') != std::string_view::npos;
  return tab ? "; a tab cannot indent, use spaces" : "";
}

}  // namespace

void report(Errors& errors, Error error) {
  if (errors.size() < error_limit) {
    errors.push_back(std::move(error));
  } else if (errors.size() == error_limit) {
    const std::string file = error.where.file;
    errors.push_back(invalid_input(
        "there are more errors; the first " + std::to_string(error_limit) + " are shown", {file, 0, 0}));
  }
}

std::string child_path(const std::string& parent, std::string_view key) {
  return parent.empty() ? std::string(key) : parent + "." + std::string(key);
}

void set_paths(YamlTree& node, const std::string& path) {
  node.path = path;
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    set_paths(*node.items[i], path + "[" + std::to_string(i) + "]");
  }
  for (auto& e : node.entries) set_paths(*e.value, child_path(path, e.key));
}

std::unique_ptr<YamlTree> build_tree(std::string_view text, const std::string& file, Errors& errors) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::size_t at = 0;
  if (!valid_utf8(text, at)) {
    report(errors, invalid_input("is not valid UTF-8 here", place_of_byte(text, at, file)));
    return nullptr;
  }
  TreeBuilder builder(text, file, errors);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      report(errors, invalid_input("is empty; a YAML map was expected", {file, 0, 0}));
      return nullptr;
    }
    if (builder.too_deep()) return nullptr;
    TreeBuilder second(text, file, errors);
    if (parser.HandleNextDocument(second)) {
      report(errors, invalid_input("holds more than one YAML document; one was expected", {file, 0, 0}));
    }
    return builder.take_root();
  } catch (const YAML::Exception& e) {
    if (!builder.too_deep()) {
      report(errors, invalid_input("invalid YAML: " + e.msg + tab_hint(text, e.mark.line),
                                   {file, e.mark.line + 1, e.mark.column + 1}));
    }
    return nullptr;
  }
}

YamlDocument::YamlDocument(std::unique_ptr<State> state) : state_(std::move(state)) {}
YamlDocument::YamlDocument(YamlDocument&&) noexcept = default;
YamlDocument& YamlDocument::operator=(YamlDocument&&) noexcept = default;
YamlDocument::~YamlDocument() = default;

Result<YamlDocument> YamlDocument::parse(const std::string& text, const std::string& file_name) {
  auto state = std::make_unique<State>();
  state->file = file_name;
  if ((state->root = known_tree(file_name, text)) != nullptr) return YamlDocument(std::move(state));
  state->root = build_tree(text, file_name, state->errors);
  if (state->root == nullptr) return state->errors;
  set_paths(*state->root, "");
  return YamlDocument(std::move(state));
}

Result<YamlDocument> YamlDocument::load(const std::string& path) {
  ORRERY_TRY(text, read_text_file(path, 8u << 20));
  auto document = parse(text, path);
  if (document.ok() && document->errors().empty()) remember_tree(path, text, *document->state_->root);
  return document;
}

Yaml YamlDocument::root() const { return {state_->root.get(), &state_->errors}; }
const Errors& YamlDocument::errors() const { return state_->errors; }
const std::string& YamlDocument::file() const { return state_->file; }

}  // namespace orrery
