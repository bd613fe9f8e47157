// Hardware profiles: the shipped ones load and are plausible; every mistake has a place.
#include "costmodel/hardware.h"

#include <string>

#include "base/files.h"
#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/profile_folder.h"
#include "costmodel/roofline.h"

using namespace orrery;

namespace {

std::string h200_text() { return read_text_file(profile_path("hardware_profiles", "h200")).value(); }

// h200.yaml with one piece of text replaced, and the errors of that.
std::string errors_after(const std::string& from, const std::string& to) {
  std::string text = h200_text();
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  text.replace(at, from.size(), to);
  const auto loaded = parse_hardware(text, "h200.yaml");
  REQUIRE_FALSE(loaded.ok());
  return to_string(loaded.errors());
}

int line_of(const std::string& piece) {
  const std::string text = h200_text();
  const std::size_t at = text.find(piece);
  REQUIRE(at != std::string::npos);
  return 1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("every shipped part loads, prices, and is called after its file") {
  const std::vector<std::string> names = profile_names("hardware_profiles");
  for (const char* wanted : {"mi300x", "mi325x", "r9700", "l40s", "h20", "h100", "h200"}) {
    CHECK(std::find(names.begin(), names.end(), wanted) != names.end());
  }
  for (const std::string& name : names) {
    INFO(name);
    const auto part = load_hardware(name);
    REQUIRE(part.ok());
    CHECK(part->name == name);
    CHECK(Roofline::create(*part).ok());
    CHECK_FALSE(part->price.has_value());  // a price is the user's
    // The matrix rate is units · clock · a power of two per clock (data sheets round by up to 1 %).
    const double per_clock = part->matrix_rate.at(DType::bf16).value.value() /
                             (part->compute_units.value * part->clock_peak.value.value());
    bool power_of_two = false;
    for (const double p : {512., 1024., 2048., 4096.}) power_of_two |= std::abs(per_clock / p - 1) < 0.02;
    CHECK(power_of_two);
    CHECK(part->matrix_rate.at(DType::bf16).value == part->matrix_rate.at(DType::fp16).value);
    CHECK(part->l2.value <= part->last_level_cache.value);
    CHECK(part->link_pair_bandwidth.value <= part->link_bandwidth.value);
    for (const auto& [kernels, efficiency] : part->efficiency) {
      INFO(kernels);
      CHECK(efficiency.value.value > 0);
      CHECK(efficiency.value.value <= 1);
      CHECK(efficiency.error > 0);
      CHECK(efficiency.value.present());
      CHECK_FALSE(efficiency.error_source.empty());
    }
  }
}

TEST_CASE("figures of the H200 in base units") {
  const HardwareProfile h = load_hardware("h200").value();
  CHECK(h.memory_bandwidth.value.value() == Approx(4.8e12));
  CHECK(h.memory_total.value.value() == 143156.0 * 1024 * 1024);
  CHECK(h.matrix_rate.at(DType::bf16).value.value() == Approx(989.4e12));
  CHECK(h.matrix_rate.count(DType::int4) == 0);
  CHECK(h.kernel_floor.value.value() == Approx(1.3e-6));
  CHECK(h.nic_bandwidth.value.value() == Approx(50e9));  // 400 Gb/s: bits
  CHECK(h.l2.value.value() == Approx(60e6));             // decimal
  CHECK(load_hardware("mi300x").value().last_level_cache.value.value() == 256.0 * 1024 * 1024);  // binary
  CHECK(load_hardware("mi300x").value().fp8_format == "fnuz");
}

TEST_CASE("an unknown part is answered with the nearest name") {
  const auto part = load_hardware("h20O");
  REQUIRE_FALSE(part.ok());
  CHECK(holds(part.errors()[0].message, "did you mean \"h20\""));
  CHECK(holds(part.errors()[0].message, "mi300x"));
}

TEST_CASE("a figure without its source is refused at its line") {
  const std::string errors =
      errors_after(", source: \"torch's L2_cache_size of an H200; papers say 50 MB\"", "");
  CHECK(holds(errors, "h200.yaml:" + std::to_string(line_of("l2:")) + ":"));
  CHECK(holds(errors, "l2.source: the key is missing"));
  CHECK(holds(errors_after("\"torch's L2_cache_size of an H200; papers say 50 MB\"", "\" \""),
              "without a source"));
}

TEST_CASE("a figure needs its kind and its unit, each one of the known names") {
  CHECK(holds(errors_after("value: 60, unit: MB, kind: published", "value: 60, unit: MB"),
              "l2.kind: the key is missing"));
  CHECK(holds(errors_after("value: 60, unit: MB, kind: published", "value: 60, unit: MB, kind: guessed"),
              "l2.kind"));
  CHECK(holds(errors_after("value: 60, unit: MB", "value: 60"), "l2.unit: the key is missing"));
}

TEST_CASE("a misspelt unit says what was meant, and one of another dimension what it is") {
  const std::string misspelt = errors_after("value: 4.8, unit: TB/s", "value: 4.8, unit: TBs");
  CHECK(holds(misspelt, "h200.yaml:" + std::to_string(line_of("memory_bandwidth:")) + ":"));
  CHECK(holds(misspelt, "memory_bandwidth.unit"));
  CHECK(holds(misspelt, "unknown unit \"TBs\""));
  CHECK(holds(misspelt, "TB/s"));
  const std::string other = errors_after("value: 4.8, unit: TB/s", "value: 4.8, unit: TB");
  CHECK(holds(other, "unit \"TB\" is of an amount of memory; a bandwidth was expected"));
}

TEST_CASE("repeated and unknown keys are errors") {
  const std::string repeated = errors_after("vendor: nvidia\n", "vendor: nvidia\nvendor: amd\n");
  CHECK(holds(repeated, "duplicate key \"vendor\""));
  CHECK(holds(repeated, "h200.yaml:" + std::to_string(line_of("vendor:") + 1) + ":1"));
  CHECK(holds(errors_after("power:", "powr:"), "powr"));
  CHECK(holds(errors_after("  bf16: {value: 989.4", "  bf17: {value: 989.4"), "unknown type"));
}

TEST_CASE("impossible values are errors") {
  CHECK(holds(errors_after("value: 143156", "value: -1"), "memory_total.value"));
  CHECK(holds(errors_after("value: 143156", "value: 0"), "must be above 0"));
  CHECK(holds(errors_after("value: 143156", "value: .nan"), "memory_total.value"));
  CHECK(holds(errors_after("value: 0.74", "value: 1.74"), "cannot be above 1"));
  CHECK(holds(errors_after("fp8_format: ocp", "fp8_format: none"), "belong together"));
  CHECK(holds(errors_after("fp8_format: ocp", "fp8_format: ocpp"), "fp8_format"));
}

TEST_CASE("all mistakes of a file are reported at once") {
  std::string text = h200_text();
  text.replace(text.find("value: 4.8, unit: TB/s"), 22, "value: 4.8, unit: TBs");
  text.replace(text.find("vendor: nvidia"), 14, "vendor: nvidea");
  const auto loaded = parse_hardware(text, "h200.yaml");
  REQUIRE_FALSE(loaded.ok());
  CHECK(loaded.errors().size() == 2);
}

TEST_CASE("an absent optional figure stays absent") {
  std::string text = h200_text();
  const std::size_t at = text.find("nic_bandwidth:"), end = text.find("power:");
  text.erase(at, end - at);
  const auto loaded = parse_hardware(text, "h200.yaml");
  REQUIRE(loaded.ok());
  CHECK_FALSE(loaded->nic_bandwidth.present());
  CHECK(loaded->pcie_bandwidth.present());
}

TEST_CASE("bytes per element of the stored types") {
  CHECK(bytes_per_element(DType::bf16) == 2);
  CHECK(bytes_per_element(DType::fp8) == 1);
  CHECK(bytes_per_element(DType::mxfp4) == 0.53125);  // 4 bits, and 8 for every 32 elements
}

TEST_CASE("efficiencies are those of a part that is listed, not of a file") {
  const std::string text = h200_text();
  const std::size_t at = text.find("\nefficiency:");
  REQUIRE(at != std::string::npos);
  const auto like = [&](const std::string& name) {
    return parse_hardware(text.substr(0, at) + "\nefficiency:\n  like: " + name + "\n", "mine.yaml");
  };
  REQUIRE(like("l40s").ok());
  const auto file = like("./l40s.yaml");
  REQUIRE_FALSE(file.ok());
  CHECK(
      holds(to_string(file.errors()), "efficiency.like: must name a part of hardware_profiles, not a file"));
}
