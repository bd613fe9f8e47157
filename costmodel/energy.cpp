#include "costmodel/energy.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "costmodel/profile_folder.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

constexpr const char* folder = "hardware_profiles/energy";
constexpr const char* class_names[] = {
    "gemm", "gemm_fp8", "grouped_gemm", "grouped_gemm_fp8", "attention_prefill", "attention_decode", "other"};

EnergyClass read_class(const Yaml& node) {
  return {.floor = read_figure<Watts>(node.require("floor")),
          .per_byte = read_figure<Watts>(node.require("per_byte"), true),
          .per_flop = read_figure<Watts>(node.require("per_flop"), true),
          .low = read_number_figure(node.require("low"), Dimension::ratio),
          .high = read_number_figure(node.require("high"), Dimension::ratio)};
}

}  // namespace

Result<EnergyProfile> load_energy(const HardwareProfile& hardware) {
  const std::string path = profile_path(folder, hardware.name);
  if (!std::filesystem::exists(path)) {
    return invalid_input(
        "what " + hardware.name +
            " draws is not known: there is no file with its figures, and Orrery assumes none; "
            "known of " +
            join(profile_names(folder), ", "),
        {path, 0, 0}, "");
  }
  if (!hardware.power.present())
    return invalid_input("has no `power`, the limit that its draw stays below",
                         {profile_path("hardware_profiles", hardware.name), 0, 0}, "power");
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  EnergyProfile out;
  out.name = hardware.name;
  check_profile_name(root.require("name"), hardware.name);
  out.idle = read_figure<Watts>(root.require("idle"));
  out.idle_low = read_number_figure(root.require("idle_low"), Dimension::ratio);
  out.idle_high = read_number_figure(root.require("idle_high"), Dimension::ratio);
  out.limit_w = hardware.power.value.value();
  const Yaml classes = root.require("classes");
  for (const char* name : class_names) out.classes.emplace(name, read_class(classes.require(name)));
  for (const auto& [name, figures] : out.classes) {  // bounds of the planner rest on it
    if (figures.floor.value < out.idle.value)
      classes.optional(name).optional("floor").fail("no operator that runs draws less than an idle board");
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return out;
}

bool EnergyProfile::assumed() const {
  const auto guessed = [](const Figure<Watts>& f) { return f.kind == FigureKind::assumed; };
  return guessed(idle) || std::any_of(classes.begin(), classes.end(), [&](const auto& c) {
           return guessed(c.second.floor) || guessed(c.second.per_byte) || guessed(c.second.per_flop);
         });
}

std::string energy_class(const OpLine& line) {
  const bool fp8 = line.shape.find("fp8") != std::string::npos;
  switch (line.op_class) {
    case OpClass::gemm: return fp8 ? "gemm_fp8" : "gemm";
    case OpClass::grouped_gemm: return fp8 ? "grouped_gemm_fp8" : "grouped_gemm";
    case OpClass::attention_prefill: return "attention_prefill";
    case OpClass::attention_decode: return "attention_decode";
    default: return "other";
  }
}

Joules& Joules::operator+=(const Joules& other) {
  nominal += other.nominal;
  low += other.low;
  high += other.high;
  return *this;
}

Joules joules_of(const EnergyProfile& profile, const OpLine& line) {
  // What overlaps others is a line of negative time: its work is in theirs, and so is what it is unsure by.
  const double seconds = static_cast<double>(line.time_ns) * 1e-9;
  const EnergyClass& c = profile.classes.at(energy_class(line));
  double watts = c.floor.value.value();
  if (line.time_ns > 0)
    watts +=
        (c.per_byte.value.value() * line.bytes + c.per_flop.value.value() * line.flops) * 1e-12 / seconds;
  const double nominal = std::min(profile.limit_w, watts);
  if (line.time_ns < 0) return {nominal * seconds, nominal * seconds, nominal * seconds};
  return {nominal * seconds, nominal * c.low.value * seconds,
          std::min(profile.limit_w, watts * c.high.value) * seconds};
}

Joules idle_joules(const EnergyProfile& profile, double seconds) {
  const double joules = profile.idle.value.value() * seconds;
  return {joules, joules * profile.idle_low.value, joules * profile.idle_high.value};
}

}  // namespace orrery
