// How keys of a scenario become words of an engine's command line: data of engine_profiles/launch
// (docs/planner.md, "Deploy files"), applied here without knowing any engine or model.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/yaml_reader.h"

namespace orrery {

// What is known of a pool, by name: tp, role, kv_cache_dtype, …
using LaunchFacts = std::map<std::string, std::string>;

struct LaunchRule {
  using Values = std::vector<std::pair<std::string, std::vector<std::string>>>;
  Values when, unless;
  std::vector<std::string> words;
  Json config = Json::object();
  std::vector<std::pair<std::string, std::string>> env;
  std::string note;
  bool holds(const LaunchFacts& facts) const;
};

// What stands before prefill and decode servers.
struct LaunchRouter {
  std::string name, image;
  std::vector<std::string> command, prefill, decode;  // the latter two of each server, with {url}
  std::map<std::string, std::string> policies;        // ours: its own
  std::map<std::string, std::string> servers;         // role: list of its configuration file
};

struct LaunchProfile {
  std::string name, source;
  std::vector<std::string> command, follower;
  std::map<std::string, std::string> image;  // by the part's vendor
  bool arguments_as_flags = true;            // else into a file, nested as they are
  bool several_nodes = true;  // one command a node, told its number and the first one's address
  std::vector<LaunchRule> rules;
  std::optional<LaunchRouter> router;
  std::map<std::string, std::string> flags;  // flag: value, switch or either
};

// Words may still hold {model}, {port}, {config}, {leader}, {node_rank}, {start_rank} and {self}, which
// depend on the kind of file that they go into.
struct Launch {
  std::vector<std::string> words;
  std::vector<std::pair<std::string, std::string>> env;
  Json config = Json::object();
  std::vector<std::string> notes;
};

// Nothing where no table is there for this engine profile.
Result<std::optional<LaunchProfile>> load_launch_profile(const std::string& engine);

Launch launch_of(const LaunchProfile& profile, const LaunchFacts& facts, const Json& engine_args);

// `{name}` where `facts` has it; everything else stays.
std::string filled(const std::string& text, const LaunchFacts& facts);

Json json_of(const Yaml& node);  // scalars as YAML means them

}  // namespace orrery
