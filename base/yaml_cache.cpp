#include "base/yaml_cache.h"

#include <map>
#include <mutex>
#include <shared_mutex>

#include "base/yaml_tree.h"

namespace orrery {

namespace {

// Profiles are a few dozen files of some 20 kB; who reads more than this many gains nothing from the first.
constexpr std::size_t most_texts = 256;

struct Known {
  std::string text;
  std::unique_ptr<YamlTree> tree;
};
struct Shelf {
  std::shared_mutex mutex;
  int users = 0;
  std::map<std::string, Known> known;  // by file
};

Shelf& shelf() {
  static Shelf one;
  return one;
}

std::unique_ptr<YamlTree> copy_of(const YamlTree& tree) {
  auto out = std::make_unique<YamlTree>();
  out->kind = tree.kind;
  out->where = tree.where;
  out->path = tree.path;
  out->scalar = tree.scalar;
  out->quoted = tree.quoted;
  out->items.reserve(tree.items.size());
  for (const auto& item : tree.items) out->items.push_back(copy_of(*item));
  out->entries.reserve(tree.entries.size());
  for (const YamlTree::Entry& e : tree.entries) out->entries.push_back({e.key, e.where, copy_of(*e.value)});
  return out;
}

}  // namespace

std::unique_ptr<YamlTree> known_tree(const std::string& file, const std::string& text) {
  Shelf& s = shelf();
  const std::shared_lock lock(s.mutex);
  if (s.users == 0) return nullptr;
  const auto at = s.known.find(file);
  return at != s.known.end() && at->second.text == text ? copy_of(*at->second.tree) : nullptr;
}

void remember_tree(const std::string& file, const std::string& text, const YamlTree& tree) {
  Shelf& s = shelf();
  {
    const std::shared_lock lock(s.mutex);
    if (s.users == 0) return;
  }
  auto copy = copy_of(tree);
  const std::unique_lock lock(s.mutex);
  if (s.known.size() < most_texts || s.known.contains(file))
    s.known.insert_or_assign(file, Known{text, std::move(copy)});
}

YamlCache::YamlCache() {
  const std::unique_lock lock(shelf().mutex);
  ++shelf().users;
}

YamlCache::~YamlCache() {
  const std::unique_lock lock(shelf().mutex);
  if (--shelf().users == 0) shelf().known.clear();
}

void YamlCache::expect(const std::string& file, const std::string& text) {
  Errors errors;
  auto tree = build_tree(text, file, errors);
  if (tree == nullptr || !errors.empty()) return;
  set_paths(*tree, "");
  remember_tree(file, text, *tree);
}

}  // namespace orrery
