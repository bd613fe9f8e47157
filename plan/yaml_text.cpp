#include "plan/deploy.h"

namespace orrery {

namespace {

bool is_block(const Json& value) { return value.is_structured() && !value.empty(); }

// Of several lines and nothing that a literal block cannot hold.
bool is_literal(const Json& value) {
  if (!value.is_string()) return false;
  const std::string text = value;
  return text.find('\n') != std::string::npos && text.back() == '\n' && text.front() != ' ' &&
         text.front() != '\n' && text.find('\t') == std::string::npos;
}

void write(const Json& value, const std::string& indent, std::string& out);

// What stands behind "key:" or "-".
void write_value(const Json& value, const std::string& indent, std::string& out) {
  if (is_literal(value)) {
    out += " |\n";
    std::string line;
    for (const char c : value.get<std::string>()) {
      line += c;
      if (c != '\n') continue;
      out += (line == "\n" ? "" : indent + "  ") + line;
      line.clear();
    }
  } else if (is_block(value)) {
    out += "\n";
    write(value, indent + "  ", out);
  } else {
    out += " " + value.dump() + "\n";
  }
}

void write(const Json& value, const std::string& indent, std::string& out) {
  if (value.is_array()) {
    for (const Json& item : value) {
      out += indent + "-";
      if (item.is_object() && !item.empty()) {  // its first key in the line of the dash
        std::string inner;
        write(item, indent + "  ", inner);
        out += " " + inner.substr(indent.size() + 2);
      } else {
        write_value(item, indent, out);
      }
    }
    return;
  }
  for (const auto& [key, item] : value.items()) {
    const bool plain = key.find_first_of(": #{}[],\"'") == std::string::npos;
    out += indent + (plain ? key : Json(key).dump()) + ":";
    write_value(item, indent, out);
  }
}

}  // namespace

std::string yaml_text(const Json& value) {
  std::string out;
  write(value, "", out);
  return out;
}

}  // namespace orrery
