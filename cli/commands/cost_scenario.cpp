#include "cli/commands/cost_scenario.h"

#include <array>
#include <filesystem>

#include "base/yaml_reader.h"
#include "costmodel/instance_spec.h"

namespace orrery {

namespace {

// Marks a subtree as known without judging it: `simulate` reads it, a price does not depend on it.
void accept(const Yaml& node) {
  if (node.is_map()) {
    for (const auto& entry : node.entries()) accept(entry.second);
  } else if (node.is_list()) {
    for (const Yaml& item : node.items()) accept(item);
  }
}

// Keys whose names are fixed and whose meaning is not built yet. Ignoring one would price something else.
void refuse_unbuilt(const Yaml& parent, const char* key, const char* remedy) {
  const Yaml node = parent.optional(key);
  if (!node) return;
  accept(node);
  node.fail(std::string("Orrery does not price this yet; ") + remedy);
}

}  // namespace

Result<CostScenario> load_cost_scenario(const std::string& path, const std::vector<std::string>& overrides) {
  ORRERY_TRY(document, YamlDocument::load(path));
  for (const std::string& assignment : overrides) ORRERY_TRY_STATUS(document.set(assignment));
  CostScenario scenario;
  scenario.file = path;
  const Yaml root = document.root();
  for (const char* key : {"workload", "slo", "seed"}) accept(root.optional(key));
  refuse_unbuilt(root, "overrides", "remove it (what-ifs on operators and figures come later)");
  refuse_unbuilt(root, "faults", "remove it");
  const Yaml deployment = root.require("deployment");
  Errors errors;
  if (const Yaml pools = deployment.optional("pools")) {
    accept(pools);
    pools.fail(
        "`cost` prices one kind of instance, and pools may differ; put one pool's keys under deployment");
  } else if (deployment) {
    if (const Yaml replicas = deployment.optional("replicas"))
      scenario.replicas = replicas.integer(1, 1, 1'000'000);
    accept(deployment.optional("router"));
    for (const char* key : {"topology", "experts", "speculation", "pd"})
      refuse_unbuilt(deployment, key, "remove it");
    const std::string folder = std::filesystem::path(path).parent_path().string();
    scenario.instance = read_instance_spec(deployment, folder, errors);
  }
  document.finish();
  Errors all = document.errors();
  all.insert(all.end(), errors.begin(), errors.end());
  if (!all.empty()) return all;
  return scenario;
}

}  // namespace orrery
