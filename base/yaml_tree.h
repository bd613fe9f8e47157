// Inside the YAML reader only: the document's tree, shared by parsing (yaml_reader.cpp), typed access
// (yaml_access.cpp) and editing (yaml_edit.cpp).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/yaml_reader.h"

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

// Adds to the errors of one file, up to a hundred: nobody reads the rest, and a hostile file has millions.
void report(Errors& errors, Error error);

std::string child_path(const std::string& parent, std::string_view key);
void set_paths(YamlTree& node, const std::string& path);

// The tree of one document, or null; then `errors` says why. A tree may come with errors as well.
std::unique_ptr<YamlTree> build_tree(std::string_view text, const std::string& file, Errors& errors);

// While a YamlCache lives (base/yaml_cache.h): a copy of what this text is known to be, or null; and makes it
// known.
std::unique_ptr<YamlTree> known_tree(const std::string& file, const std::string& text);
void remember_tree(const std::string& file, const std::string& text, const YamlTree& tree);

bool plain_number_shape(const std::string& t);  // JSON's numbers: no leading zeros, no '+', no '.5'

}  // namespace orrery
