// Published expert layers were timed with the choice of experts in them: a step counts it once.
#include <filesystem>
#include <fstream>

#include "catch.h"
#include "costmodel/kernel_set.h"
#include "costmodel/priced_steps.h"
#include "costmodel/read_instance.h"
#include "costmodel/read_part.h"

using namespace orrery;
namespace fs = std::filesystem;

namespace {

double line_us(const StepPricer& pricer, std::int32_t sequences, const std::string& name) {
  for (const OpLine& line : pricer.explain(decodes(sequences, 100)).ops) {
    if (line.name == name) return static_cast<double>(line.time_ns) / static_cast<double>(line.count) / 1e3;
  }
  FAIL("no line " << name);
  return 0;
}

StepPricer priced(const std::string& engine, const std::string& model, const std::string& more = "") {
  Read r = read("hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return pricer(r.spec);
}

}  // namespace

TEST_CASE("the layer's line and that of the choice add up to the published timing") {
  struct Row {
    const char *engine, *model;
    std::int32_t sequences;
    double us;
  };
  // Copied by hand: moe_perf of vllm 0.24.0, H200, balanced, at sizes where each of the chosen experts is
  // another one (a batch's expected number of distinct experts is the timed one then).
  const Row rows[] = {{"vllm-0.24", "qwen3-30b-a3b", 1, 40.272}, {"vllm-0.24", "gpt-oss-20b", 1, 59.867}};
  for (const Row& row : rows) {
    const StepPricer p = priced(row.engine, row.model);
    const double layer = line_us(p, row.sequences, "moe_experts"), choice = line_us(p, row.sequences, "topk");
    INFO(row.model << " " << layer << " + " << choice);
    CHECK(choice > 1);
    CHECK(layer + choice == Approx(row.us).epsilon(0.002));
  }
}

TEST_CASE("ranks that share out experts choose for all tokens, each") {
  const std::string plan = "parallel: {tp: 2, ep: 2}\n";
  const StepPricer one = priced("vllm-0.24", "qwen3-30b-a3b"),
                   two = priced("vllm-0.24", "qwen3-30b-a3b", plan);
  for (const std::int32_t sequences : {4, 64}) {
    const double choice = line_us(one, sequences, "topk");
    CHECK(line_us(two, sequences, "topk") == Approx(choice));
    // What a rank has of the layer is more than half: the small kernels run over all rows.
    CHECK(line_us(two, sequences, "moe_experts") > line_us(one, sequences, "moe_experts") / 2);
    CHECK(line_us(two, sequences, "moe_experts") < line_us(one, sequences, "moe_experts"));
  }
}

TEST_CASE("every published set says that its layers hold the choice, ours has no whole layers") {
  for (const char* name : {"h100", "h200", "h20", "l40s"}) {
    const HardwareProfile hardware = part(name);
    for (const std::string& kernels : KernelSet::names(name)) {
      const auto set = KernelSet::load(hardware, kernels);
      REQUIRE(set.ok());
      INFO(name << " " << kernels);
      CHECK((*set)->experts_hold_choice("bf16") == ((*set)->points("experts") > 0));
      CHECK_FALSE((*set)->experts_hold_choice("fp8-channel"));
    }
  }
}

TEST_CASE("a format that no table has is a located error") {
  const fs::path root = fs::temp_directory_path() / "orrery_choice_inside_test",
                 folder = root / "hardware_profiles/tables/h200/mine";
  fs::remove_all(root);
  fs::create_directories(folder);
  std::ofstream(folder / "table.yaml") << "hardware: h200\nkernels: mine\nkind: measured\nsource: \"a "
                                          "test\"\nchoice_inside: [bf16, fp8-blok]\n";
  const HardwareProfile h200 = part("h200");
  setenv("ORRERY_DATA_DIR", root.c_str(), 1);
  const auto set = KernelSet::load(h200, "mine");
  unsetenv("ORRERY_DATA_DIR");
  fs::remove_all(root);
  REQUIRE_FALSE(set.ok());
  const std::string text = to_string(set.errors());
  INFO(text);
  CHECK(text.find("table.yaml:5") != std::string::npos);
  CHECK(text.find("choice_inside") != std::string::npos);
  CHECK(text.find("did you mean \"fp8-block\"") != std::string::npos);
}
