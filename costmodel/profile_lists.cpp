#include "costmodel/profile_lists.h"

#include <array>

#include "base/text.h"
#include "costmodel/instance_spec.h"
#include "costmodel/op_table.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

void append(Errors& all, const Errors& more) { all.insert(all.end(), more.begin(), more.end()); }

std::string count_text(std::size_t n, const char* what) { return std::to_string(n) + " " + what; }

// How many figures of each kind a part has.
std::string provenance_of(const HardwareProfile& h) {
  std::array<std::size_t, 5> counts{};
  const auto add = [&](FigureKind kind, const std::string& source) {
    if (!source.empty()) ++counts[static_cast<std::size_t>(kind)];
  };
  for (const auto& [dtype, f] : h.matrix_rate) add(f.kind, f.source);
  if (h.vector_rate) add(h.vector_rate->kind, h.vector_rate->source);
  add(h.memory_total.kind, h.memory_total.source);
  add(h.memory_bandwidth.kind, h.memory_bandwidth.source);
  add(h.l2.kind, h.l2.source);
  add(h.compute_units.kind, h.compute_units.source);
  add(h.clock_peak.kind, h.clock_peak.source);
  add(h.kernel_floor.kind, h.kernel_floor.source);
  add(h.link_bandwidth.kind, h.link_bandwidth.source);
  add(h.link_pair_bandwidth.kind, h.link_pair_bandwidth.source);
  add(h.link_efficiency.kind, h.link_efficiency.source);
  add(h.collective_latency.kind, h.collective_latency.source);
  for (const auto& ratio : {h.eight_ranks_latency, h.library_latency}) {
    if (ratio) add(ratio->kind, ratio->source);
  }
  add(h.pcie_bandwidth.kind, h.pcie_bandwidth.source);
  add(h.nic_bandwidth.kind, h.nic_bandwidth.source);
  add(h.power.kind, h.power.source);
  for (const auto& [name, e] : h.efficiency) add(e.value.kind, e.value.source);
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) parts.push_back(count_text(counts[i], to_string(static_cast<FigureKind>(i))));
  }
  return "figures: " + join(parts, ", ");
}

template <class Make>
Result<std::vector<ListEntry>> list_profiles(const std::string& folder, Make make) {
  std::vector<ListEntry> entries;
  Errors errors;
  for (const std::string& name : profile_names(folder)) {
    auto entry = make(name);
    if (entry.ok())
      entries.push_back(std::move(entry).value());
    else
      append(errors, entry.errors());
  }
  if (!errors.empty()) return errors;
  return entries;
}

// "8.2 B parameters", in tenths.
std::string billions(std::int64_t parameters) {
  const std::int64_t tenths = (parameters + 50'000'000) / 100'000'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " B";
}

}  // namespace

Result<std::vector<ListEntry>> list_hardware() {
  return list_profiles("hardware_profiles", [](const std::string& name) -> Result<ListEntry> {
    ORRERY_TRY(h, load_hardware(name));
    return ListEntry{name, h.description, provenance_of(h)};
  });
}

Result<std::vector<ListEntry>> list_models() {
  return list_profiles("model_profiles", [](const std::string& name) -> Result<ListEntry> {
    ORRERY_TRY(m, load_model(name, "", "", "auto"));
    std::string text = m.architecture + ", " + billions(m.parameters()) + " parameters";
    if (m.experts > 0) text += " (" + billions(m.active_parameters()) + " active)";
    return ListEntry{name, text + ", " + to_string(m.quantization),
                     "shapes of config.json; whether published or recalled stands in the profile"};
  });
}

Result<std::vector<ListEntry>> list_engines() {
  return list_profiles("engine_profiles", [](const std::string& name) -> Result<ListEntry> {
    ORRERY_TRY(e, load_engine(name));
    return ListEntry{name, e.description,
                     "scheduler " + e.scheduler + ", " + count_text(e.arguments.size(), "arguments known")};
  });
}

std::vector<ListEntry> list_operators() {
  std::vector<ListEntry> entries;
  for (const OperatorEntry& entry : operator_table()) {
    entries.push_back({entry.name, entry.description, std::string("class ") + to_string(entry.op_class)});
  }
  return entries;
}

}  // namespace orrery
