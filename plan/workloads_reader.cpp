#include "plan/workloads_reader.h"

#include <filesystem>

#include "base/json.h"

namespace orrery {

std::string flow_text(const Yaml& node) {
  if (node.is_null()) return "~";
  std::string out;
  if (node.is_list()) {
    for (const Yaml& item : node.items()) out += (out.empty() ? "" : ", ") + flow_text(item);
    return "[" + out + "]";
  }
  if (node.is_map()) {
    for (const auto& [key, value] : node.entries())
      out += (out.empty() ? "" : ", ") + Json(key).dump() + ": " + flow_text(value);
    return "{" + out + "}";
  }
  // What a list or a map in one line would take for its own.
  const bool plain = !node.quoted() && node.scalar_text().find_first_of(",[]{}#:\"'\n") == std::string::npos;
  return plain ? node.scalar_text() : Json(node.scalar_text()).dump();
}

namespace {

// Paths below `workload` that are relative to their own file.
constexpr const char* path_keys[] = {"trace", "generator.resample", "generator.servegen.folder"};

Yaml below(Yaml node, std::string key) {
  for (std::size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.')) {
    node = node.optional(key.substr(0, dot));
    key.erase(0, dot + 1);
  }
  return node.optional(key);
}

// `workload:` of a scenario's file, and its `slo:` where it has one and nothing else is given.
Status take_from_file(const std::string& path, PlanWorkload& out) {
  ORRERY_TRY(document, YamlDocument::load(path));
  if (!document.errors().empty()) return document.errors();
  const auto folder = std::filesystem::absolute(path).parent_path();
  for (const char* key : path_keys) {
    const Yaml node = below(document.root().optional("workload"), key);
    if (!node.present() || node.is_null()) continue;
    const auto resolved = (folder / node.scalar_text()).lexically_normal();
    ORRERY_TRY_STATUS(document.set_text("workload." + std::string(key), resolved.string()));
  }
  const Yaml workload = document.root().optional("workload");
  if (!workload.present())
    return invalid_input("has no `workload`, which search.workloads is to take from it", {path, 0, 0}, "");
  out.workload = flow_text(workload);
  out.closed_loop = workload.optional("closed_loop").present();
  if (const Yaml slo = document.root().optional("slo"); !out.has_slo && slo.present()) {
    out.slo = flow_text(slo);
    out.has_slo = true;
  }
  return ok_status();
}

Status read_one(const Yaml& node, const std::string& folder, std::size_t number, PlanWorkload& out) {
  const Yaml workload = node.require("workload");
  out.name = "workload " + std::to_string(number + 1);
  if (const Yaml name = node.optional("name"); name.present()) out.name = name.text();
  // It becomes part of a file's name.
  if (out.name.empty() || out.name.find_first_of("/\\\n") != std::string::npos)
    node.optional("name").fail("is no name: choice-NAME.yaml is written with it");
  out.weight = node.optional("weight").number(1, 1e-6, 1e6);
  if (const Yaml slo = node.optional("slo"); slo.present()) {
    out.slo = flow_text(slo);
    out.has_slo = true;
  }
  if (workload.is_map()) {
    out.workload = flow_text(workload);
    out.closed_loop = workload.optional("closed_loop").present();
    return ok_status();
  }
  if (!workload.is_scalar() || workload.scalar_text().empty()) {
    if (workload.present())
      workload.fail("expected a workload, or the name of a scenario's file that has one");
    return ok_status();
  }
  return take_from_file((std::filesystem::path(folder) / workload.text()).lexically_normal().string(), out);
}

}  // namespace

Status read_plan_workloads(const Yaml& root, const Yaml& search, const std::string& folder,
                           PlanSpace& space) {
  static const std::vector<std::string> ways = {"mean", "worst"};
  const Yaml list = search.optional("workloads"), over = search.optional("over_workloads");
  if (!list.present()) {
    if (over.present()) over.fail("says how several workloads count; give `search.workloads`");
    return ok_status();
  }
  if (over.present()) space.over = static_cast<OverWorkloads>(over.choice(ways));
  if (root.optional("workload").present())
    list.fail("stands beside `workload`: every workload stands in this list, or only the other key");
  if (!list.is_list() || list.items().empty()) {
    list.fail("needs a list, as [{workload: chat.yaml, weight: 3}, {workload: {generator: …}, weight: 1}]");
    return ok_status();
  }
  for (const Yaml& node : list.items()) {
    PlanWorkload one;
    ORRERY_TRY_STATUS(read_one(node, folder, space.workloads.size(), one));
    for (const PlanWorkload& other : space.workloads) {
      if (other.name == one.name) node.optional("name").fail("two workloads have this name");
    }
    space.workloads.push_back(std::move(one));
  }
  double sum = 0;
  for (const PlanWorkload& one : space.workloads) sum += one.weight;
  for (PlanWorkload& one : space.workloads) one.weight /= sum;
  return ok_status();
}

}  // namespace orrery
