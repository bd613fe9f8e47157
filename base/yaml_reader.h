// Strict YAML. yaml-cpp alone keeps duplicate keys silently, reads 010 as 8 and yes as true; this reader
// builds its own tree from yaml-cpp's events, so that every mistake of a file is reported at once, each
// with file:line:column and key path.
//
// Use: load a document, walk it with typed accessors, call finish() on it, look at errors(). Accessors
// never throw and never stop: after an error they return a harmless fallback so that the rest of the
// file is checked as well.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace orrery {

struct YamlTree;  // a node of the document: scalar, list or map, with place and path

// A handle to one node; cheap to copy; valid as long as its document lives. A default-constructed or
// absent handle answers present() == false, and its accessors return fallbacks without a new error.
class Yaml {
 public:
  Yaml() = default;
  Yaml(YamlTree* node, Errors* errors) : node_(node), errors_(errors) {}

  bool present() const { return node_ != nullptr; }
  explicit operator bool() const { return present(); }
  bool is_map() const;
  bool is_list() const;
  bool is_scalar() const;
  bool is_null() const;  // `~`, `null` or nothing after the colon
  SourceLocation where() const;
  const std::string& path() const;  // "deployment.parallel.tp", "pools[0].name"

  // Children of a map. Asking marks the key as known; finish() reports keys never asked for.
  Yaml optional(std::string_view key) const;                  // absent handle when missing
  Yaml require(std::string_view key) const;                   // error when missing
  std::vector<std::pair<std::string, Yaml>> entries() const;  // all keys, marked known; error when not a map
  std::vector<Yaml> items() const;                            // error when not a list

  // Scalars. A wrong type or range is an error naming what was expected; the fallback is returned.
  std::string text(std::string fallback = {}) const;
  std::int64_t integer(std::int64_t fallback = 0, std::int64_t low = std::numeric_limits<std::int64_t>::min(),
                       std::int64_t high = std::numeric_limits<std::int64_t>::max()) const;
  // Finite: NaN and inf are errors.
  double number(double fallback = 0, double low = -std::numeric_limits<double>::infinity(),
                double high = std::numeric_limits<double>::infinity()) const;
  bool boolean(bool fallback = false) const;  // true | false only
  // One of the names; the error lists them and says which is nearest. Returns the index, 0 after an error.
  std::size_t choice(const std::vector<std::string>& names) const;

  void fail(std::string message) const;  // an error at this node
  std::string scalar_text() const;       // as written, "" when not a scalar; never an error
  bool quoted() const;                   // the scalar was quoted in the file

 private:
  YamlTree* node_ = nullptr;
  Errors* errors_ = nullptr;
};

class YamlDocument {
 public:
  static Result<YamlDocument> load(const std::string& path);  // missing, binary, directory, too large: errors
  static Result<YamlDocument> parse(const std::string& text, const std::string& file_name);

  YamlDocument(YamlDocument&&) noexcept;
  YamlDocument& operator=(YamlDocument&&) noexcept;
  ~YamlDocument();

  // `path.to[0].key=value` as in --set: replaces or creates the key; the value is parsed as YAML. Errors name
  // "--set" and leave the document as it was.
  Status set(const std::string& assignment);
  // The same with a text that is taken as it is, quotes and all (a file name).
  Status set_text(const std::string& path, const std::string& text);
  void erase(const std::string& path);  // no key there: nothing happens

  Yaml root() const;
  void finish() const;           // reports every key that nobody asked for, with a did-you-mean
  const Errors& errors() const;  // parse errors (duplicate keys, …) and everything reported since
  std::string dump() const;      // canonical YAML of the tree as it is now (after set)
  const std::string& file() const;

 private:
  struct State;
  explicit YamlDocument(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace orrery
