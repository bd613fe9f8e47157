#include "plan/launch_profile.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "base/files.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

constexpr const char* folder = "engine_profiles/launch";

std::vector<std::string> texts(const Yaml& node) {
  std::vector<std::string> out;
  if (!node.present()) return out;
  if (!node.is_list()) return {node.scalar_text()};
  for (const Yaml& item : node.items()) out.push_back(item.scalar_text());
  return out;
}

std::map<std::string, std::string> text_map(const Yaml& node) {
  std::map<std::string, std::string> out;
  if (!node.present()) return out;
  for (const auto& [key, value] : node.entries()) out[key] = value.text();
  return out;
}

LaunchRule::Values values_of(const Yaml& node) {
  LaunchRule::Values out;
  if (!node.present()) return out;
  for (const auto& [key, value] : node.entries()) out.emplace_back(key, texts(value));
  return out;
}

LaunchRule read_rule(const Yaml& node) {
  LaunchRule rule;
  rule.when = values_of(node.optional("when"));
  rule.unless = values_of(node.optional("unless"));
  rule.words = texts(node.optional("words"));
  if (const Yaml config = node.optional("config"); config.present()) rule.config = json_of(config);
  for (auto& [key, value] : text_map(node.optional("env"))) rule.env.emplace_back(key, value);
  rule.note = node.optional("note").text();
  return rule;
}

LaunchRouter read_router(const Yaml& node) {
  LaunchRouter router;
  router.name = node.require("name").text();
  router.image = node.require("image").text();
  router.command = texts(node.require("command"));
  router.prefill = texts(node.optional("prefill"));
  router.decode = texts(node.optional("decode"));
  router.policies = text_map(node.optional("policies"));
  router.servers = text_map(node.optional("servers"));
  return router;
}

Result<std::map<std::string, std::string>> read_flags(const std::string& name) {
  ORRERY_TRY(reader, LineReader::open(data_directory() + "/" + folder + "/flags/" + name + ".txt"));
  std::map<std::string, std::string> flags;
  for (std::string_view line; reader.next(line);) {
    const std::size_t space = line.find(' ');
    if (!line.starts_with('#') && space != std::string_view::npos)
      flags[std::string(line.substr(0, space))] = std::string(line.substr(space + 1));
  }
  if (reader.error() != nullptr) return *reader.error();
  return flags;
}

bool among(const LaunchFacts& facts, const std::pair<std::string, std::vector<std::string>>& asked) {
  const auto at = facts.find(asked.first);
  return at != facts.end() &&
         std::find(asked.second.begin(), asked.second.end(), at->second) != asked.second.end();
}

// A text that is a number once its facts stand in it becomes one.
Json filled_json(const Json& in, const LaunchFacts& facts) {
  if (in.is_object()) {
    Json out = Json::object();
    for (const auto& [key, value] : in.items()) out[key] = filled_json(value, facts);
    return out;
  }
  if (!in.is_string() || in.get<std::string>().find('{') == std::string::npos) return in;
  const std::string text = filled(in, facts);
  const bool number =
      !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return std::isdigit(c); });
  return number ? Json(std::stoll(text)) : Json(text);
}

std::string word_of(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

void add_argument(const LaunchProfile& profile, const std::string& name, const Json& value, Launch& launch) {
  if (value.is_null()) return;
  if (std::isupper(static_cast<unsigned char>(name.front())) != 0) {  // of the environment
    launch.env.emplace_back(name, word_of(value));
    return;
  }
  std::string flag = "--" + name;
  std::replace(flag.begin(), flag.end(), '_', '-');
  const auto known = profile.flags.find(flag);
  if (known == profile.flags.end()) {
    launch.notes.push_back("engine_args." + name + " has no flag of its name in " + profile.name +
                           " and is left out");
    return;
  }
  if (value.is_boolean() && known->second != "value") {
    if (value.get<bool>())
      launch.words.push_back(flag);
    else if (known->second == "either")
      launch.words.push_back("--no-" + flag.substr(2));
    return;  // a switch that is off
  }
  launch.words.push_back(flag);
  if (!value.is_array()) {
    launch.words.push_back(word_of(value));
  } else {
    for (const Json& item : value) launch.words.push_back(word_of(item));
  }
}

}  // namespace

Json json_of(const Yaml& node) {
  if (node.is_map()) {
    Json out = Json::object();
    for (const auto& [key, value] : node.entries()) out[key] = json_of(value);
    return out;
  }
  if (node.is_list()) {
    Json out = Json::array();
    for (const Yaml& item : node.items()) out.push_back(json_of(item));
    return out;
  }
  if (node.is_null()) return nullptr;
  const std::string text = node.scalar_text();
  if (node.quoted()) return text;
  if (text == "true" || text == "false") return text == "true";
  const Json number = Json::parse(text, nullptr, false);
  return number.is_number() ? number : Json(text);
}

bool LaunchRule::holds(const LaunchFacts& facts) const {
  return std::all_of(when.begin(), when.end(), [&](const auto& asked) { return among(facts, asked); }) &&
         std::none_of(unless.begin(), unless.end(), [&](const auto& asked) { return among(facts, asked); });
}

std::string filled(const std::string& text, const LaunchFacts& facts) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t end = text[i] == '{' ? text.find('}', i) : std::string::npos;
    const auto at = end == std::string::npos ? facts.end() : facts.find(text.substr(i + 1, end - i - 1));
    if (at == facts.end()) {
      out += text[i++];
    } else {
      out += at->second;
      i = end + 1;
    }
  }
  return out;
}

Result<std::optional<LaunchProfile>> load_launch_profile(const std::string& engine) {
  const std::string path = profile_path(folder, engine);
  if (!std::filesystem::exists(path)) return std::optional<LaunchProfile>();
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  LaunchProfile profile;
  profile.name = engine;
  profile.source = root.require("source").text();
  profile.command = texts(root.require("command"));
  profile.follower = texts(root.optional("follower"));
  profile.image = text_map(root.require("image"));
  profile.arguments_as_flags = root.require("arguments").choice({"flags", "config"}) == 0;
  profile.several_nodes = root.optional("several_nodes").boolean(true);
  for (const Yaml& rule : root.require("rules").items()) profile.rules.push_back(read_rule(rule));
  if (const Yaml router = root.optional("router"); router.present()) profile.router = read_router(router);
  document.finish();
  if (!document.errors().empty()) return document.errors();
  ORRERY_TRY(flags, read_flags(engine));
  profile.flags = std::move(flags);
  return std::optional<LaunchProfile>(std::move(profile));
}

Launch launch_of(const LaunchProfile& profile, const LaunchFacts& facts, const Json& engine_args) {
  Launch launch;
  launch.words = profile.command;
  for (const LaunchRule& rule : profile.rules) {
    if (!rule.holds(facts)) continue;
    for (const std::string& word : rule.words) launch.words.push_back(filled(word, facts));
    for (const auto& [key, value] : rule.env) launch.env.emplace_back(key, filled(value, facts));
    launch.config.merge_patch(filled_json(rule.config, facts));
    if (!rule.note.empty()) launch.notes.push_back(rule.note);
  }
  if (profile.arguments_as_flags) {
    for (const auto& [name, value] : engine_args.items()) add_argument(profile, name, value, launch);
  } else {
    launch.config.merge_patch(engine_args);
    for (const auto& [name, value] : engine_args.items()) {
      if (value.is_null()) launch.config[name] = nullptr;  // said on purpose, and not "as before"
    }
  }
  return launch;
}

}  // namespace orrery
