// Latent attention (DeepSeek) and 8-bit KV caches: sizes against published ones, physics of the operators.
#include <string>
#include <vector>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

InstanceSpec instance(const std::string& model, const std::string& more, const char* engine = "vllm-0.24") {
  Read r = read("hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

OpLine line(const StepPricer& p, const StepShape& shape, const std::string& name) {
  for (const OpLine& op : p.explain(shape).ops) {
    if (op.name == name) return op;
  }
  FAIL("no operator " + name);
  return {};
}

std::int64_t device_ns(const StepPricer& p, const StepShape& shape) {
  std::int64_t total = 0;
  for (const OpLine& op : p.explain(shape).ops) total += op.time_ns;
  return total;
}

}  // namespace

TEST_CASE("DeepSeek's parameters and cache are the published ones") {
  const ModelSpec lite = instance("deepseek-v2-lite", "").model;
  CHECK(static_cast<double>(lite.parameters()) == Approx(15.7e9).epsilon(0.005));  // model card: 15.7B, 2.4B
  CHECK(static_cast<double>(lite.active_parameters()) == Approx(2.4e9).epsilon(0.15));
  CHECK(lite.kv_bytes_per_token().value() == 27 * 576 * 2);
  const ModelSpec v3 = instance("deepseek-v3", "parallel: {tp: 8}\n").model;
  CHECK(static_cast<double>(v3.parameters()) == Approx(671e9).epsilon(0.002));  // model card: 671B, 37B
  CHECK(static_cast<double>(v3.active_parameters()) == Approx(37e9).epsilon(0.03));
  CHECK(v3.layer_kinds.size() == 2);
  CHECK(v3.layer_kinds[0].count == 3);
  CHECK_FALSE(v3.layer_kinds[0].moe);
}

TEST_CASE("every rank keeps a whole latent, and a share of ordinary heads") {
  const auto per_token = [](const std::string& model, int tp) {
    return plan_memory(instance(model, "parallel: {tp: " + std::to_string(tp) + "}\n"))
        .value()
        .kv_bytes_per_token.value();
  };
  CHECK(per_token("deepseek-v2-lite", 1) == 27 * 576 * 2);
  CHECK(per_token("deepseek-v2-lite", 8) == per_token("deepseek-v2-lite", 1));
  CHECK(per_token("qwen3-8b", 8) * 8 == per_token("qwen3-8b", 1));
}

TEST_CASE("an absorbed decode reads the latent once and grows with context and batch") {
  const StepPricer p = pricer(instance("deepseek-v2-lite", ""));
  const StepShape shape = decodes(64, 4096);
  const OpLine decode = line(p, shape, "attention_decode");
  const double keys = 64.0 * 4097 * 27;  // of all layers, as the lines count
  CHECK(decode.bytes >= keys * 576 * 2);
  CHECK(decode.bytes < keys * 576 * 2 * 1.2);  // queries and outputs beside it, no second read for values
  CHECK(decode.flops == Approx(2.0 * 16 * keys * (576 + 512)));
  std::int64_t last = 0;
  for (std::int64_t context : {1, 100, 1000, 10000, 30000}) {
    const std::int64_t now = line(p, decodes(64, context), "attention_decode").time_ns;
    CHECK(now >= last);
    last = now;
  }
  CHECK(line(p, decodes(256, 4096), "absorb").flops == 4 * line(p, shape, "absorb").flops);
}

TEST_CASE("prompts expand their cached prefix again, decodes never") {
  const StepPricer p = pricer(instance("deepseek-v2-lite", ""));
  const auto prefill = [](std::vector<PrefillChunk>& chunks, std::int64_t context) {
    chunks = {{1024, context}};
    StepShape shape{};
    shape.prefill = chunks;
    shape.running = 1;
    return shape;
  };
  std::vector<PrefillChunk> a, b;
  const OpLine fresh = line(p, prefill(a, 0), "kv_b_proj");
  const OpLine late = line(p, prefill(b, 7168), "kv_b_proj");
  CHECK(fresh.flops == Approx(27 * 2.0 * 1024 * 512 * 16 * 256));
  CHECK(late.flops == Approx(8 * fresh.flops));
  CHECK(late.time_ns > fresh.time_ns);
  for (const OpLine& op : p.explain(decodes(8, 1000)).ops) CHECK(op.name != "kv_b_proj");
}

TEST_CASE("an 8-bit cache holds twice the tokens and no attention reads more of it") {
  for (const char* engine : {"vllm-0.24", "sglang-0.5", "tensorrt-llm-1.2"}) {
    for (const char* model : {"qwen3-8b", "qwen3-30b-a3b"}) {
      CAPTURE(engine, model);
      const InstanceSpec wide = instance(model, "", engine);
      const InstanceSpec narrow = instance(model, "kv_cache_dtype: fp8\n", engine);
      const auto a = plan_memory(wide).value(), b = plan_memory(narrow).value();
      CHECK(b.kv_bytes_per_token.value() * 2 == a.kv_bytes_per_token.value());
      CHECK(static_cast<double>(b.kv_tokens()) ==
            Approx(2.0 * static_cast<double>(a.kv_tokens())).epsilon(0.001));
      const StepPricer pa = pricer(wide), pb = pricer(narrow);
      const StepShape shape = decodes(64, 8192);
      const OpLine full = line(pa, shape, "attention_decode"), half = line(pb, shape, "attention_decode");
      CHECK(half.bytes == Approx(full.bytes / 2).epsilon(0.02));
      CHECK(half.time_ns < full.time_ns);
      CHECK(device_ns(pb, shape) < device_ns(pa, shape));
      // TensorRT-LLM's attention writes keys itself, and its timings hold that.
      if (std::string(engine) != "tensorrt-llm-1.2")
        CHECK(line(pb, shape, "kv_write").bytes < line(pa, shape, "kv_write").bytes);
      else
        for (const OpLine& op : pa.explain(shape).ops) CHECK(op.name != "kv_write");
    }
  }
}

TEST_CASE("names of 8-bit cache types that an engine takes") {
  CHECK(instance("qwen3-8b", "kv_cache_dtype: fp8_e5m2\n").model.kv_dtype == DType::fp8);
  CHECK(instance("qwen3-8b", "kv_cache_dtype: fp8_e4m3\n", "sglang-0.5").model.kv_dtype == DType::fp8);
  const Read refused =
      read("hardware: h200\nmodel: qwen3-8b\nengine: tensorrt-llm-1.2\nkv_cache_dtype: fp8_e5m2\n");
  REQUIRE_FALSE(refused.errors.empty());
  CHECK(to_string(refused.errors).find("auto or fp8") != std::string::npos);
}

// grouped_topk_router.py of 0.24.0: without a correction bias no fused kernel: two choices and four kernels
// around them, each as long as a start in a small step.
TEST_CASE("DeepSeek-V2 chooses its experts by six kernels on vLLM, DeepSeek-V3 by one") {
  const auto choice = [](const char* model, const char* engine, const std::string& more) {
    return line(pricer(instance(model, more, engine)), decodes(4, 100), "topk");
  };
  const auto ratio = [&](const char* model, const std::string& more) {
    return static_cast<double>(choice(model, "vllm-0.24", more).time_ns) /
           static_cast<double>(choice(model, "sglang-0.5", more).time_ns);
  };
  CHECK(ratio("deepseek-v2-lite", "kernels: roofline\n") == Approx(6).epsilon(0.02));
  CHECK(ratio("deepseek-v3", "kernels: roofline\nparallel: {tp: 8}\n") == Approx(1).epsilon(0.02));
  const OpLine timed = choice("deepseek-v2-lite", "vllm-0.24", "");
  CHECK(timed.rung == "measured");  // the fused kernel's timing, twice
  CHECK(timed.hit == "extrapolated");
}
