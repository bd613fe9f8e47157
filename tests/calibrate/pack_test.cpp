#include "calibrate/pack.h"

#include <filesystem>
#include <functional>

#include "base/files.h"
#include "base/json.h"
#include "calibrate/bound.h"
#include "calibrate/tables.h"
#include "catch.h"
#include "costmodel/hardware.h"
#include "fake_device.h"

using namespace orrery;
using namespace orrery::calibrate;
namespace fs = std::filesystem;

namespace {

const char* const good_check = R"({"where": "NVIDIA H200", "passed": 12, "failed": 0, "good": true})";

// A calibration directory with two figures, after `change` has had its way with the journal.
std::string packed(const std::function<void(Journal&)>& change, const std::string& check = good_check) {
  const fs::path folder = fs::temp_directory_path() / "orrery_pack_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  FakeWorld world;
  FakeDevice device(world);
  Journal journal;
  journal.header = fake_header(device);
  journal.header.device.memory_bytes = 150109880320;  // 143156 MiB
  for (const std::int64_t m : {64, 4096}) {
    const Point p = gemm_point(m, 4096, 4096);
    Measurement figure;
    figure.table = p.table;
    figure.shape = p.shape;
    figure.kernel = "fake.gemm";
    figure.state = PointState::ok;
    figure.us = law_ns(p.spec) / 1e3;
    figure.spread = 0.004;
    figure.samples = 20;
    journal.points.push_back(figure);
  }
  Measurement probe;
  probe.table = "probes";
  probe.shape = "launches.graph_node,0";
  probe.kernel = "orrery.probe";
  probe.state = PointState::ok;
  probe.value = 1.3;
  probe.unit = "us";
  journal.points.push_back(probe);
  change(journal);
  std::string text = header_json(journal.header).dump() + "\n";
  for (const Measurement& m : journal.points) text += measurement_json(m).dump() + "\n";
  REQUIRE(write_file_atomically((folder / "journal.jsonl").string(), text).ok());
  REQUIRE(write_file_atomically((folder / "check.json").string(), check + "\n").ok());
  auto pack = pack_directory(folder.string());
  if (!pack.ok()) return "cannot pack: " + pack.errors()[0].to_string();
  return *pack;
}

std::string problem(const std::string& pack) {
  const auto import = parse_pack(pack, "pack.json");
  if (import.ok()) return "";
  std::string text;
  for (const Error& e : import.errors()) {
    CHECK(e.kind == ErrorKind::invalid_input);
    text += e.to_string() + "\n";
  }
  return text;
}

std::string problem_of(const std::function<void(Journal&)>& change) { return problem(packed(change)); }

bool says(const std::string& text, const char* words) {
  INFO(text);
  return text.find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("what is packed is imported as it was measured") {
  const std::string pack = packed([](Journal&) {});
  const auto import = parse_pack(pack, "pack.json");
  REQUIRE(import.ok());
  CHECK(import->figures == 3);
  CHECK(import->tables.at("probes.csv").find("launches.graph_node,0,1.3,us") != std::string::npos);
  CHECK(import->check == "12 passed, 0 failed");
  CHECK(import->notes.empty());
  CHECK(import->tables.at("gemm.csv").find("bf16,64,4096,4096,") != std::string::npos);
  CHECK(packed([](Journal&) {}) == pack);
}

TEST_CASE("a pack that was damaged on its way is refused") {
  const std::string pack = packed([](Journal&) {});
  std::string changed = pack;
  changed.replace(changed.find("4096,4096"), 4, "4097");
  CHECK(says(problem(changed), "checksum"));
  CHECK(says(problem(pack.substr(0, pack.size() / 2)), "pack.json"));
  CHECK(says(problem("{}"), "--pack"));
  CHECK(says(problem("[]"), "--pack"));
  CHECK_FALSE(problem("not JSON").empty());
  auto other = parse_json(pack, "p");
  REQUIRE(other.ok());
  (*other)["orrery_calibration_pack"] = 2;
  CHECK(says(problem(canonical_json(*other)), "version"));
}

TEST_CASE("a pack of another part, or of one that nobody knows, is refused") {
  CHECK(says(problem_of([](Journal& j) { j.header.hardware = "h2000"; }), "unknown hardware \"h2000\""));
  CHECK(says(problem_of([](Journal& j) { j.header.device.name = "NVIDIA H20"; }), "is not the device"));
  CHECK(says(problem_of([](Journal& j) { j.header.device.compute_units = 114; }), "114 where h200 has 132"));
  CHECK(says(problem_of([](Journal& j) { j.header.device.memory_bytes = std::size_t{80} << 30; }),
             "memory_bytes"));
  CHECK(says(problem_of([](Journal& j) { j.header.kernels = "vllm"; }), "orrery's own kernels"));
}

TEST_CASE("figures that the part cannot have reached are refused, each by its row") {
  const std::string milliseconds = problem_of([](Journal& j) {
    for (Measurement& m : j.points) m.us /= 1e3;
  });
  CHECK(says(milliseconds, "gemm:bf16,64,4096,4096"));
  CHECK(says(milliseconds, "gemm:bf16,4096,4096,4096"));
  CHECK(says(milliseconds, "allows no less than"));
  CHECK(says(problem_of([](Journal& j) { j.points[0].shape = "bf16,64,4096"; }), "expected the columns"));
  CHECK(says(problem_of([](Journal& j) { j.points[0].shape = "bf16,64,x,4096"; }), "whole number"));
  CHECK(says(problem_of([](Journal& j) { j.points.clear(); }), "holds no figure"));
  CHECK(says(problem_of([](Journal& j) { j.points[0].spread = 11; }), "spread"));
}

TEST_CASE("kernels that failed their check are not packed") {
  const std::string failed = R"({"passed": 11, "failed": 1, "good": false})";
  CHECK(says(packed([](Journal&) {}, failed), "did not pass"));
  CHECK(says(packed([](Journal&) {}, "{}"), "--check writes"));
}

TEST_CASE("least times are the data sheet's, a little lenient") {
  const auto h200 = load_hardware("h200");
  REQUIRE(h200.ok());
  // 8192³ · 2 operations at 989.4 TFLOP/s take 1111 µs.
  CHECK(least_us(gemm_point(8192, 8192, 8192).spec, *h200).value() == Approx(1111 / 1.12).epsilon(0.01));
  // 128 MiB of weights at 4.8 TB/s take 28 µs.
  CHECK(least_us(gemm_point(1, 8192, 8192).spec, *h200).value() == Approx(27.96 / 1.03).epsilon(0.01));
  CHECK(least_us(gemm_point(1, 8, 8).spec, *h200).value() == Approx(0.39));
  kernels::CaseSpec s = gemm_point(8, 128, 128).spec;
  s.op = "all_reduce";
  s.ranks = 2;
  s.bytes = 450'000'000;
  CHECK(least_us(s, *h200).value() == Approx(500 / 1.05));
}
