// `orrery list`: what is available, with provenance.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "calibrate/table_index.h"
#include "cli/command_table.h"
#include "cli/commands/validate_cases.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_lists.h"
#include "kernels/case_table.h"
#include "sim/fabric/presets.h"
#include "sim/policies.h"

namespace orrery {

namespace {

std::vector<ListEntry> list_schedulers() {
  std::vector<ListEntry> out;
  out.reserve(std::size(scheduler_policies));
  for (const SchedulerPolicy& p : scheduler_policies)
    out.push_back({p.name, p.description, "rules from the engine's source"});
  return out;
}

std::vector<ListEntry> list_routers() {
  std::vector<ListEntry> out;
  out.reserve(std::size(router_policies));
  for (const RouterPolicy& p : router_policies) out.push_back({p.name, p.description, "Orrery"});
  return out;
}

std::vector<ListEntry> list_workloads() {
  std::vector<ListEntry> out;
  for (const std::string& name : profile_names("workloads/specs")) {
    out.push_back({name, profile_path("workloads/specs", name), "generator specification"});
  }
  out.push_back({"azure_2023_conversation_10min",
                 data_directory() + "/workloads/excerpts/azure_2023_conversation_10min.jsonl",
                 "excerpt of Azure's public trace, CC-BY-4.0"});
  out.push_back({"mooncake_conversation_10min",
                 data_directory() + "/workloads/excerpts/mooncake_conversation_10min.jsonl",
                 "excerpt of Mooncake's public trace, Apache-2.0"});
  return out;
}

// Presets as they are built for one node, with what their figures rest on.
std::vector<ListEntry> list_topologies() {
  std::vector<ListEntry> out;
  for (const fabric::TopologyPreset& preset : fabric::topology_presets) {
    fabric::PresetOptions options;
    options.preset = preset.name;
    std::string provenance;
    for (const fabric::LinkSource& link : fabric::build_preset(options).sources) {
      provenance += (provenance.empty() ? "" : "; ") + link.what + " " +
                    format_fixed(link.bandwidth.value / 1e9, 0) + " GB/s (" + to_string(link.bandwidth.kind) +
                    "), " + format_fixed(link.latency.value * 1e6, 1) + " us (" +
                    to_string(link.latency.kind) + ")";
    }
    out.push_back({preset.name, preset.description, provenance});
  }
  return out;
}

// "h200 (vllm-0.24, published): 812 points, error 2.6 to 6.5 %", for one operator.
std::string table_text(const calibrate::TableSummary& table, const calibrate::TableOperator& op) {
  std::string text = table.hardware + " (" + table.kernels + ", " + table.kind +
                     "): " + std::to_string(op.points) + (op.points == 1 ? " point" : " points");
  if (op.most_error > 0) {
    const std::string least = format_fixed(100 * op.least_error, 1),
                      most = format_fixed(100 * op.most_error, 1);
    text += ", error " + (least == most ? most : least + " to " + most) + " %";
  }
  return text + (op.kernels.empty() ? "" : ", " + join(op.kernels, " "));
}

// The cost model's operators, then those that only kernels know (collectives, probes).
Result<std::vector<ListEntry>> list_measured_operators() {
  std::vector<ListEntry> entries = list_operators();
  for (const kernels::CaseEntry& entry : kernels::case_table()) {
    const bool known =
        std::any_of(entries.begin(), entries.end(), [&](const ListEntry& e) { return e.name == entry.op; });
    if (!known) entries.push_back({entry.op, entry.description, "kernel only"});
  }
  std::vector<std::string> names;
  names.reserve(entries.size());
  for (const ListEntry& e : entries) names.push_back(e.name);
  ORRERY_TRY(tables, calibrate::table_index(names));
  for (ListEntry& e : entries) {
    e.provenance += kernels::find_case(e.name) != nullptr ? "; kernel of ours" : "; no kernel of ours";
    bool measured = false;
    for (const calibrate::TableSummary& table : tables) {
      const auto found = table.operators.find(e.name);
      if (found == table.operators.end() || found->second.points == 0) continue;
      e.provenance += "; " + table_text(table, found->second);
      measured = true;
    }
    if (!measured) e.provenance += "; no table";
  }
  return entries;
}

int print_list(const std::string& what, const CommandContext& context) {
  Result<std::vector<ListEntry>> entries = std::vector<ListEntry>{};
  if (what == "hardware") entries = list_hardware();
  if (what == "models") entries = list_models();
  if (what == "engines") entries = list_engines();
  if (what == "operators") entries = list_measured_operators();
  if (what == "schedulers") entries = list_schedulers();
  if (what == "routers") entries = list_routers();
  if (what == "workloads") entries = list_workloads();
  if (what == "topologies") entries = list_topologies();
  if (what == "cases") entries = list_cases();
  if (!entries.ok()) return report_errors(entries.errors());
  if (context.json) {
    Json out = Json::array();
    for (const ListEntry& e : *entries)
      out.push_back({{"name", e.name}, {"description", e.description}, {"provenance", e.provenance}});
    std::fputs(canonical_json(out).c_str(), stdout);
    return 0;
  }
  for (const ListEntry& e : *entries) {
    std::printf("%-22s %s\n%-22s   %s\n", e.name.c_str(), e.description.c_str(), "", e.provenance.c_str());
  }
  return 0;
}

}  // namespace

void register_list_command(CLI::App& app, CommandContext& context) {
  CLI::App* list =
      app.add_subcommand("list", "what is available, with provenance\nexample: orrery list hardware");
  auto what = std::make_shared<std::string>();
  list->add_option(
          "what", *what,
          "hardware, models, engines, workloads, operators, schedulers, routers, topologies or cases")
      ->required()
      ->check(CLI::IsMember({"hardware", "models", "engines", "workloads", "operators", "schedulers",
                             "routers", "topologies", "cases"}));
  list->callback(
      [&context, what] { context.action = [&context, what] { return print_list(*what, context); }; });
}

}  // namespace orrery
