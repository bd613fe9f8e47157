#include "costmodel/hardware.h"

#include <filesystem>

#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

constexpr auto dtype_count = static_cast<std::size_t>(DType::count);

template <class Q>
void read_optional(const Yaml& root, const char* key, Figure<Q>& figure) {
  if (const Yaml node = root.optional(key); node.present()) figure = read_figure<Q>(node);
}

void read_matrix_rates(const Yaml& node, HardwareProfile& h) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < dtype_count; ++i) names.emplace_back(to_string(static_cast<DType>(i)));
  for (const auto& [name, rate] : node.entries()) {
    std::size_t at = 0;
    while (at < names.size() && names[at] != name) ++at;
    if (at == names.size()) {
      rate.fail("unknown type" + did_you_mean(name, names) + "; known: " + join(names, ", "));
      if (rate.is_map()) rate.entries();
      continue;
    }
    h.matrix_rate[static_cast<DType>(at)] = read_figure<FlopsPerSecond>(rate);
  }
}

// A relative's own, else figures would be carried over twice, or in a circle.
bool carries_over(const std::string& name) {
  const auto path = find_profile("hardware_profiles", name, "hardware");
  if (!path.ok()) return false;
  const auto document = YamlDocument::load(path.value());
  if (!document.ok()) return false;
  const Yaml efficiency = document.value().root().optional("efficiency");
  return efficiency.is_map() && efficiency.optional("like").present();
}

// `like: NAME` takes the efficiencies of a relative in hardware_profiles, with twice their errors: how far
// kernels of one part tell those of another nobody measured here.
void carry_over(const Yaml& like, HardwareProfile& h) {
  if (!like.present()) return;
  const std::string name = like.text();
  if (is_hardware_path(name)) return like.fail("must name a part of hardware_profiles, not a file");
  if (carries_over(name))
    return like.fail(name + " has no efficiencies of its own, it takes another's; name that one");
  auto relative = load_hardware(name);
  if (!relative.ok()) return like.fail("is not a part of hardware_profiles (orrery list hardware)");
  h.efficiency = std::move(relative.value().efficiency);
  for (auto& [kernels, e] : h.efficiency) {
    e.value.kind = e.error_kind = FigureKind::assumed;
    e.value.source = "that of " + name + ", carried over: " + e.value.source;
    e.error *= 2;
    e.error_source = "twice that of " + name + ": " + e.error_source;
  }
}

// `{value, unit: ratio, kind, source, error: {value, unit: ratio, kind, source}}`
void read_efficiencies(const Yaml& node, HardwareProfile& h) {
  carry_over(node.is_map() ? node.optional("like") : Yaml{}, h);
  for (const auto& [name, entry] : node.entries()) {
    if (name == "like") continue;
    Efficiency e;
    e.value = read_number_figure(entry, Dimension::ratio);
    if (e.value.value > 1) entry.fail("an efficiency is achieved ÷ peak and cannot be above 1");
    const Figure<double> error = read_number_figure(entry.require("error"), Dimension::ratio);
    e.error = error.value;
    e.error_kind = error.kind;
    e.error_source = error.source;
    h.efficiency[name] = std::move(e);
  }
}

void read_links(const Yaml& node, HardwareProfile& h) {
  if (!node.present()) return;
  h.link_bandwidth = read_figure<BytesPerSecond>(node.require("bandwidth"));
  h.link_pair_bandwidth = read_figure<BytesPerSecond>(node.require("pair_bandwidth"));
  const Yaml efficiency = node.require("efficiency");
  h.link_efficiency = read_number_figure(efficiency, Dimension::ratio);
  if (h.link_efficiency.value > 1) efficiency.fail("an efficiency is achieved ÷ raw and cannot be above 1");
  h.collective_latency = read_figure<Seconds>(node.require("collective_latency"));
  if (const Yaml eight = node.optional("eight_ranks_latency"); eight.present())
    h.eight_ranks_latency = read_number_figure(eight, Dimension::ratio);
  if (const Yaml library = node.optional("library_latency"); library.present())
    h.library_latency = read_number_figure(library, Dimension::ratio);
}

HardwareProfile read_hardware(const Yaml& root) {
  HardwareProfile h;
  h.name = root.require("name").text();
  h.description = root.require("description").text();
  const std::vector<std::string> vendors = {"nvidia", "amd"};
  if (const Yaml vendor = root.require("vendor"); vendor.present())
    h.vendor = vendors[vendor.choice(vendors)];
  h.architecture = root.require("architecture").text();
  const std::vector<std::string> formats = {"none", "ocp", "fnuz"};
  if (const Yaml format = root.require("fp8_format"); format.present())
    h.fp8_format = formats[format.choice(formats)];
  const Yaml rates = root.require("matrix_rate");
  read_matrix_rates(rates, h);
  if (rates.is_map() && h.matrix_rate.count(DType::fp8) != (h.fp8_format == "none" ? 0u : 1u)) {
    rates.fail("fp8_format and a matrix rate for fp8 belong together: give both, or none and no rate");
  }
  if (const Yaml node = root.optional("vector_rate"); node.present())
    h.vector_rate = read_figure<FlopsPerSecond>(node);
  h.memory_total = read_figure<Bytes>(root.require("memory_total"));
  h.memory_bandwidth = read_figure<BytesPerSecond>(root.require("memory_bandwidth"));
  h.l2 = read_figure<Bytes>(root.require("l2"));
  h.last_level_cache = h.l2;
  read_optional(root, "last_level_cache", h.last_level_cache);
  h.compute_units = read_number_figure(root.require("compute_units"), Dimension::count);
  h.clock_peak = read_figure<Hertz>(root.require("clock_peak"));
  h.kernel_floor = read_figure<Seconds>(root.require("kernel_floor"));
  read_links(root.optional("links"), h);
  read_optional(root, "pcie_bandwidth", h.pcie_bandwidth);
  read_optional(root, "nic_bandwidth", h.nic_bandwidth);
  read_optional(root, "power", h.power);
  if (const Yaml node = root.optional("price"); node.present()) h.price = read_figure<UsdPerHour>(node);
  read_efficiencies(root.require("efficiency"), h);
  return h;
}

Result<HardwareProfile> finish(YamlDocument document, const std::string& expected_name) {
  const Yaml root = document.root();
  HardwareProfile h = read_hardware(root);
  if (!expected_name.empty()) check_profile_name(root.optional("name"), expected_name);
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return h;
}

}  // namespace

const char* to_string(DType dtype) {
  switch (dtype) {
    case DType::fp32: return "fp32";
    case DType::bf16: return "bf16";
    case DType::fp16: return "fp16";
    case DType::fp8: return "fp8";
    case DType::int8: return "int8";
    case DType::int4: return "int4";
    case DType::mxfp4: return "mxfp4";
    case DType::count: break;
  }
  return "?";
}

double bytes_per_element(DType dtype) {
  switch (dtype) {
    case DType::fp32: return 4;
    case DType::bf16:
    case DType::fp16: return 2;
    case DType::fp8:
    case DType::int8: return 1;
    case DType::int4: return 0.5;
    case DType::mxfp4: return 0.5 + 1.0 / 32;
    case DType::count: break;
  }
  ORRERY_CHECK(false, "not a data type");
  return 0;
}

bool is_hardware_path(const std::string& name_or_path) {
  return name_or_path.find('/') != std::string::npos || name_or_path.ends_with(".yaml");
}

Result<HardwareProfile> load_hardware(const std::string& name_or_path, const std::string& folder) {
  if (is_hardware_path(name_or_path)) {
    const std::filesystem::path path = std::filesystem::path(folder) / name_or_path;
    ORRERY_TRY(own, YamlDocument::load(path.lexically_normal().string()));
    return finish(std::move(own), "");
  }
  ORRERY_TRY(path, find_profile("hardware_profiles", name_or_path, "hardware"));
  ORRERY_TRY(document, YamlDocument::load(path));
  return finish(std::move(document), name_or_path);
}

Result<HardwareProfile> parse_hardware(const std::string& text, const std::string& file_name) {
  ORRERY_TRY(document, YamlDocument::parse(text, file_name));
  return finish(std::move(document), "");
}

}  // namespace orrery
