// Files of YAML parsed once for many readers: a search over deployments reads the same few profiles thousands
// of times, and parsing is most of what reading a candidate takes.
#pragma once

#include <string>

namespace orrery {

// While one lives, YamlDocument::load keeps what it parsed without an error, and whoever reads the same text
// from the same path gets a copy: a file that changed meanwhile is parsed anew. Several may live at once.
class YamlCache {
 public:
  YamlCache();
  ~YamlCache();
  YamlCache(const YamlCache&) = delete;
  YamlCache& operator=(const YamlCache&) = delete;
  // A text that YamlDocument::parse will be given again and again under this name.
  void expect(const std::string& file, const std::string& text);
};

}  // namespace orrery
