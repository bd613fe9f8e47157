// Experts in parts beside experts shared out: `ep` between 1 and all GPUs (SGLang, TensorRT-LLM).
#include "catch.h"
#include "costmodel/memory_plan.h"
#include "costmodel/read_instance.h"
#include "costmodel/step_pricer.h"

using namespace orrery;

namespace {

std::string text(const std::string& engine, const std::string& plan, const std::string& more = "") {
  return "hardware: h100\nmodel: qwen3-30b-a3b-fp8\nengine: " + engine + "\nparallel: " + plan + "\n" + more;
}

InstanceSpec spec(const std::string& engine, const std::string& plan, const std::string& more = "") {
  Read r = read(text(engine, plan, more));
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return r.spec;
}

StepBreakdown prompt(const InstanceSpec& spec, std::int32_t tokens) {
  const std::vector<PrefillChunk> chunk{{tokens, 0}};
  StepShape shape;
  shape.prefill = chunk;
  return StepPricer::create(spec).value().explain(shape);
}

struct Products {
  double flops = 0, ns = 0;
  std::int64_t all_reduces = 0;
};
Products products(const InstanceSpec& spec, std::int32_t tokens) {
  Products p;
  for (const OpLine& line : prompt(spec, tokens).ops) {
    if (line.op_class == OpClass::grouped_gemm) {
      p.flops += line.flops;
      p.ns += static_cast<double>(line.time_ns);
    }
    if (line.name == "moe_all_reduce") p.all_reduces += line.count;
  }
  return p;
}

}  // namespace

TEST_CASE("ep = 2 of 4 GPUs: weights and rows of a GPU are those of any width, unevenness lies between") {
  for (const std::string engine : {"sglang-0.5", "tensorrt-llm-1.2"}) {
    INFO(engine);
    // In bf16 experts of 768 may be cut in four.
    const auto of = [&](const std::string& plan) {
      Read r = read("hardware: h100\nmodel: qwen3-30b-a3b\nengine: " + engine + "\nparallel: " + plan + "\n");
      if (!r.errors.empty()) FAIL(to_string(r.errors));
      return r.spec;
    };
    const InstanceSpec parts = of("{tp: 4}"), between = of("{tp: 4, ep: 2}"), whole = of("{tp: 4, ep: 4}");
    const auto weights = [](const InstanceSpec& s) { return plan_memory(s).value().weights.value(); };
    CHECK(weights(between) == Approx(weights(parts)));
    CHECK(weights(between) == Approx(weights(whole)));
    const Products a = products(parts, 2048), b = products(between, 2048), c = products(whole, 2048);
    // A quarter of every token's work when cut; the busiest half, or quarter, of experts else.
    CHECK(b.flops > a.flops);
    CHECK(c.flops > b.flops);
    CHECK(c.flops < 1.2 * a.flops);
    // One sum over all GPUs follows whatever the width.
    CHECK(b.all_reduces == a.all_reduces);
    CHECK(b.all_reduces == c.all_reduces);
    CHECK(b.ns > 0);
  }
}

TEST_CASE("widths between serve what neither end does: blocks of 128 in experts of 768 over four GPUs") {
  CHECK_FALSE(read(text("sglang-0.5", "{tp: 4}")).errors.empty());
  CHECK(read(text("sglang-0.5", "{tp: 4, ep: 2}")).errors.empty());
  CHECK(to_string(read(text("sglang-0.5", "{tp: 8, ep: 4}")).errors).find("expert width") ==
        std::string::npos);
}

TEST_CASE("redundant experts of a width between are held in parts") {
  const std::string plan = "{tp: 4, ep: 2}";
  const auto weights = [&](const std::string& experts) {
    return plan_memory(spec("sglang-0.5", plan, experts)).value().weights.value();
  };
  const InstanceSpec s = spec("sglang-0.5", plan, "experts: {eplb: {policy: static, redundant: 32}}\n");
  const double more = weights("experts: {eplb: {policy: static, redundant: 32}}\n") - weights("");
  CHECK(more == Approx(32 * s.experts.expert_bytes * s.experts.layers / 4));
}

TEST_CASE("a width between says nothing of a model without experts") {
  const std::string errors = to_string(
      read("hardware: h100\nmodel: qwen3-8b\nengine: sglang-0.5\nparallel: {tp: 4, ep: 2}\n").errors);
  CHECK(errors.find("parallel.ep: qwen3-8b has no experts to share out; use 1") != std::string::npos);
}

TEST_CASE("vLLM shares experts out over all GPUs or none") {
  const std::string errors = to_string(read(text("vllm-0.24", "{tp: 4, ep: 2}")).errors);
  CHECK(errors.find("parallel.ep: must be 1 or all 4 GPUs of the plan: vLLM shares") != std::string::npos);
}
