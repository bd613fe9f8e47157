// What a YAML document can do beside being read: unknown keys, --set, canonical text.
#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/text.h"
#include "base/yaml_tree.h"

namespace orrery {

namespace {

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

// Whether YAML reads the text back as the same plain text when it stands unquoted.
bool plain_text_is_safe(const std::string& text) {
  if (text.empty() || text == "null" || text == "Null" || text == "NULL") return false;
  if (text.find_first_of(":#{}[],&*!|>'\"%@`~") != std::string::npos) return false;
  if (std::any_of(text.begin(), text.end(), is_control)) return false;
  return text.front() != '-' && text.front() != '?' && text.front() != ' ' && text.back() != ' ';
}

std::string in_quotes(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (is_control(c)) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      out += buffer;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string key_text(const std::string& key) { return plain_text_is_safe(key) ? key : in_quotes(key); }

void dump_node(const YamlTree& n, int indent, std::string& out) {
  const std::string pad(static_cast<std::size_t>(indent) * 2, ' ');
  switch (n.kind) {
    case YamlTree::Kind::null: out += " ~\n"; break;
    case YamlTree::Kind::scalar: {
      const bool plain = !n.quoted && (plain_number_shape(n.scalar) || plain_text_is_safe(n.scalar));
      out += " " + (plain ? n.scalar : in_quotes(n.scalar)) + "\n";
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
        out += pad + key_text(e.key) + ":";
        dump_node(*e.value, indent + 1, out);
      }
      break;
  }
}

// The keys that a reader asked for, present or not; nothing where there are too many to read.
std::string known_here(const YamlTree& node) {
  constexpr std::size_t most = 40;
  std::vector<std::string> keys = node.asked_keys;
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  if (keys.empty() || keys.size() > most) return "";
  return "; known here: " + join(keys, ", ");
}

void report_unknown(const YamlTree& node, Errors& errors) {
  for (const auto& item : node.items) report_unknown(*item, errors);
  for (const auto& e : node.entries) {
    if (e.asked) {
      report_unknown(*e.value, errors);
    } else {
      report(errors, invalid_input("unknown key" + did_you_mean(e.key, node.asked_keys) + known_here(node),
                                   e.where, e.value->path));
    }
  }
}

struct PathStep {
  std::string key;
  std::ptrdiff_t index = -1;  // list index, or −1 for a key
};

bool parse_index(const std::string& text, std::size_t& i, std::vector<PathStep>& steps) {
  const std::size_t end = text.find(']', i);
  std::ptrdiff_t index = -1;
  if (end == std::string::npos) return false;
  const auto r = std::from_chars(text.data() + i + 1, text.data() + end, index);
  if (r.ec != std::errc() || r.ptr != text.data() + end || index < 0) return false;
  steps.push_back({"", index});
  i = end + 1;
  return true;
}

bool parse_path(const std::string& text, std::vector<PathStep>& steps) {
  std::size_t i = 0;
  do {
    const std::size_t end = std::min(text.find_first_of(".[", i), text.size());
    const bool root_index = i == 0 && text.starts_with('[');
    if (end == i && !root_index) return false;
    if (end > i) steps.push_back({text.substr(i, end - i), -1});
    i = end;
    while (i < text.size() && text[i] == '[') {
      if (!parse_index(text, i, steps)) return false;
    }
    if (i == text.size()) return true;
  } while (text[i++] == '.');
  return false;
}

YamlTree* existing_child(YamlTree& node, const PathStep& step) {
  if (step.index < 0) {
    auto* entry = node.find(step.key);
    return entry == nullptr ? nullptr : entry->value.get();
  }
  const auto index = static_cast<std::size_t>(step.index);
  return index < node.items.size() ? node.items[index].get() : nullptr;
}

// Why the keys from steps[from] on cannot be made below `node`; "" when they can. Lists do not grow by index:
// the elements before it would have no value.
std::string why_not_creatable(const YamlTree& node, const std::vector<PathStep>& steps, std::size_t from) {
  const PathStep& step = steps[from];
  if (step.index >= 0) {
    const std::string element = "element [" + std::to_string(step.index) + "]";
    if (node.kind != YamlTree::Kind::list) return "is not a list, so it has no " + element;
    return "there is no " + element + "; the list has " + std::to_string(node.items.size());
  }
  if (node.kind != YamlTree::Kind::map && node.kind != YamlTree::Kind::null) {
    return "is not a map, so it has no key " + quote(step.key);
  }
  for (std::size_t i = from + 1; i < steps.size(); ++i) {
    if (steps[i].index >= 0) return "a list cannot be created by index; give it whole, as key=[…]";
  }
  return "";
}

}  // namespace

std::string YamlDocument::dump() const {
  std::string out;
  dump_node(*state_->root, 0, out);
  if (out.starts_with('\n')) out.erase(0, 1);
  return out;
}

void YamlDocument::finish() const { report_unknown(*state_->root, state_->errors); }

Status YamlDocument::set(const std::string& assignment) {
  const SourceLocation where{"--set " + assignment, 0, 0};
  const std::size_t equals = assignment.find('=');
  std::vector<PathStep> steps;
  if (equals == std::string::npos || !parse_path(assignment.substr(0, equals), steps)) {
    return make_error(ErrorKind::usage, "expected path.to.key=value", where);
  }
  Errors errors;
  const std::string value = assignment.substr(equals + 1);
  auto fresh = build_tree(value.empty() ? "~" : value, where.file, errors);
  if (!errors.empty()) return errors;

  YamlTree* node = state_->root.get();
  std::size_t i = 0;
  for (; i < steps.size(); ++i) {
    YamlTree* child = existing_child(*node, steps[i]);
    if (child == nullptr) break;
    node = child;
  }
  if (i < steps.size()) {
    const std::string problem = why_not_creatable(*node, steps, i);
    if (!problem.empty()) return invalid_input(problem, where, node->path);
  }
  for (; i < steps.size(); ++i) {
    auto child = std::make_unique<YamlTree>();
    child->where = where;
    child->path = child_path(node->path, steps[i].key);
    node->kind = YamlTree::Kind::map;
    node->entries.push_back({steps[i].key, where, std::move(child), false});
    node = node->entries.back().value.get();
  }
  set_paths(*fresh, node->path);
  *node = std::move(*fresh);
  return ok_status();
}

Status YamlDocument::set_text(const std::string& path, const std::string& text) {
  return set(path + "=" + in_quotes(text));
}

void YamlDocument::erase(const std::string& path) {
  std::vector<PathStep> steps;
  if (!parse_path(path, steps)) return;
  YamlTree* parent = state_->root.get();
  for (std::size_t i = 0; i + 1 < steps.size() && parent != nullptr; ++i)
    parent = existing_child(*parent, steps[i]);
  if (parent == nullptr) return;
  std::erase_if(parent->entries, [&](const auto& entry) { return entry.key == steps.back().key; });
}

}  // namespace orrery
