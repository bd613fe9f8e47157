// What SGLang leaves to PyTorch around latent attention on gfx942, and AITER's experts there: which version
// has what (srt/models/deepseek_v2.py and its parts in the wheels of 0.5.2, 0.5.5.post3, 0.5.9 and 0.5.12).
#include <array>
#include <cmath>
#include <string>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/kernel_set.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;
using Catch::Matchers::Contains;

namespace {

InstanceSpec instance(const std::string& engine, const std::string& hardware = "mi300x",
                      const std::string& more = "") {
  Read r = read("hardware: " + hardware + "\nmodel: deepseek-r1\nengine: " + engine +
                "\nparallel: {tp: 8}\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

struct Line {
  double us = 0;
  std::int64_t count = 0;
  std::string shape;
};

Line line(const InstanceSpec& spec, const std::string& name, const StepShape& shape = decodes(4, 1500)) {
  for (const OpLine& op : pricer(spec).explain(shape).ops) {
    if (op.name == name) return {static_cast<double>(op.time_ns) / 1e3, op.count, op.shape};
  }
  return {};
}

constexpr int layers = 61, expert_layers = 58;

}  // namespace

TEST_CASE("on gfx942 SGLang's rotary embedding beside a latent is thirteen kernels, elsewhere one") {
  for (const std::string engine : {"sglang-0.5.2", "sglang-0.5.5", "sglang-0.5.9", "sglang-0.5"}) {
    CAPTURE(engine);
    const InstanceSpec spec = instance(engine);
    const double floor = spec.engine.kernel_laws.front().kernel_floor.value.value() * 1e6;
    CHECK(floor > spec.hardware.kernel_floor.value.value() * 1e6);  // of an empty kernel, on another part
    const double each = line(instance(engine), "rotary").us / layers;
    CHECK(each > 13 * floor);
    CHECK(each < 14 * floor);
    CHECK(line(instance(engine), "latent_concatenations").us / layers > 2 * floor);
    CHECK(line(instance(engine), "latent_concatenations").us / layers < 3 * floor);
    CHECK(line(instance(engine, "h200"), "latent_concatenations").count == 0);
    CHECK(line(instance(engine, "h200"), "rotary").us / layers < 5);
  }
  // Both matrices are cast and scaled until 0.5.9; from 0.5.12 on one is multiplied in FP8.
  const double both = line(instance("sglang-0.5.9"), "absorb_casts").us,
               one = line(instance("sglang-0.5"), "absorb_casts").us;
  CHECK(both == Approx(2 * one).epsilon(0.01));
}

TEST_CASE("single operations cost by the rows of a step, and decodes' nothing in a prompt") {
  const InstanceSpec spec = instance("sglang-0.5.9");
  CHECK(line(spec, "rotary", decodes(128, 1500)).us > line(spec, "rotary").us);
  CHECK(line(spec, "absorb_casts", decodes(128, 1500)).us == line(spec, "absorb_casts").us);
  StepShape prompt{};
  const std::array<PrefillChunk, 1> chunk{PrefillChunk{8192, 0}};
  prompt.prefill = chunk;
  prompt.running = 1;
  CHECK(line(spec, "absorb_casts", prompt).count == 0);
  CHECK(line(spec, "latent_concatenations", prompt).count == 0);
  // Ten passes over 16 + 1 heads of 64 in 16 bits, 178 MB a layer at less than 5.3 TB/s.
  CHECK(line(spec, "rotary", prompt).us / layers > 8192.0 * 17 * 64 * 2 * 10 / 5.3e6);
}

TEST_CASE("the shared expert runs among the routed ones from 0.5.5 on, where nothing tells experts apart") {
  CHECK(line(instance("sglang-0.5.2"), "shared_gate_up_proj").count == expert_layers);
  CHECK_THAT(line(instance("sglang-0.5.2"), "moe_gate_up").shape, Contains("/256"));
  for (const std::string engine : {"sglang-0.5.5", "sglang-0.5.9", "sglang-0.5"}) {
    CAPTURE(engine);
    CHECK(line(instance(engine), "shared_gate_up_proj").count == 0);
    CHECK_THAT(line(instance(engine), "moe_experts").shape, Contains("experts=257 top 9"));
    CHECK_THAT(line(instance(engine), "router").shape, Contains("n=256"));  // which does not choose it
  }
  const std::string skewed = "experts: {popularity: {zipf: 0.8}}\n";
  CHECK(line(instance("sglang-0.5", "mi300x", skewed), "shared_gate_up_proj").count == expert_layers);
}

TEST_CASE("AITER's timings price experts on both parts, and its products where the version runs them") {
  for (const std::string part : {"mi300x", "mi325x"}) {
    CAPTURE(part);
    const InstanceSpec ck = instance("sglang-0.5.5", part), triton = instance("sglang-0.5.9", part);
    REQUIRE(ck.kernels);
    REQUIRE(triton.kernels);
    CHECK(ck.kernels->name() == "sglang-0.5.5");
    CHECK(ck.kernels->points("gemm") > 0);
    CHECK(triton.kernels->points("gemm") == 0);
    // GLM-5's layer at TP8, timed: 64 tokens 288.4 us, with three kernels around it at 2.15 us.
    const ExpertShape glm{6144, 256, 257, 9};
    const double distinct = 257 * (1 - std::pow(1 - 9.0 / 257, 64));
    const auto fitted = triton.kernels->experts("fp8-block", glm);
    REQUIRE(fitted);
    const double us = experts_bound_ns(PartRates::of(triton.hardware), "fp8-block", glm, 64 * 9, distinct) /
                      fitted->curve.at(64) / 1e3;
    CHECK(us == Approx(288.41 + 6.45).epsilon(0.01));
  }
  // 64 rows x 2,112 x 7,168: timed 16.5 us by the tuner; 123 us by Triton's untuned tiles.
  const auto product = [](const char* engine) {
    return line(instance(engine), "qkv_a_proj", decodes(64, 1500)).us / layers;
  };
  CHECK(product("sglang-0.5.5") == Approx(16.5).epsilon(0.05));
  CHECK(product("sglang-0.5.9") == Approx(123).epsilon(0.01));
}
