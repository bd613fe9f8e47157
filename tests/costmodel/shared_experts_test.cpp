// What engines do around their experts' kernels: a shared expert that SGLang runs as one more of the routed
// ones, rows that TensorRT-LLM pads for Triton's.
#include <string>

#include "catch.h"
#include "costmodel/read_instance.h"

using namespace orrery;

namespace {

StepBreakdown step(const std::string& more, std::int32_t decodes, const std::string& engine = "sglang-0.5",
                   bool laws = true) {
  const std::string model = more.find("model:") == std::string::npos ? "model: deepseek-r1\n" : "";
  Read r = read("hardware: h200\nengine: " + engine + "\n" + model + more + "\n");
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  if (!laws) r.spec.engine.kernel_laws.clear();
  StepShape s;
  s.decode_sequences = decodes;
  s.decode_context_tokens = std::int64_t{decodes} * 1000;
  return StepPricer::create(r.spec).value().explain(s);
}

const OpLine* line(const StepBreakdown& b, const std::string& name) {
  for (const OpLine& l : b.ops) {
    if (l.name == name) return &l;
  }
  return nullptr;
}

}  // namespace

// models/deepseek_v2.py, `shared_experts_fusion_disable_reason` of 0.5.23.
TEST_CASE(
    "DeepSeek-V3's shared expert is one of the routed ones without expert parallelism, on SGLang alone") {
  const auto fused = [](const std::string& more, const std::string& engine = "sglang-0.5") {
    const StepBreakdown b = step(more, 64, engine);
    const bool apart = line(b, "shared_down_proj") != nullptr;
    CHECK((line(b, "moe_experts")->shape.find("top 8+1") != std::string::npos) != apart);
    return !apart;
  };
  CHECK(fused("parallel: {tp: 8}"));
  CHECK(fused("parallel: {tp: 8}", "sglang-0.5.9"));
  CHECK(fused("parallel: {tp: 8}", "sglang-0.4"));
  CHECK_FALSE(fused("parallel: {tp: 8, ep: 8}"));
  CHECK_FALSE(fused("parallel: {tp: 8}", "vllm-0.24"));
  CHECK_FALSE(fused("parallel: {tp: 8}", "tensorrt-llm-1.2"));
  // 384 experts are fused in Quark's checkpoints alone, DeepSeek-V2-Lite has two shared ones of 64.
  for (const char* model : {"kimi-k2", "deepseek-v2-lite"}) {
    CAPTURE(model);
    const StepBreakdown b = step(std::string("model: ") + model + "\nparallel: {tp: 8}", 8);
    CHECK(line(b, "shared_down_proj") != nullptr);
  }
}

// 58 layers, 256 of 2,048 columns a rank, three products of 7,168 × 256 in e4m3 with a scale for 128 × 128.
TEST_CASE("it brings every token's row and one expert's weights, and takes less time than by itself") {
  for (const std::int32_t tokens : {1, 64, 256}) {
    const StepBreakdown with = step("parallel: {tp: 8}", tokens);
    const StepBreakdown without = step("parallel: {tp: 8}", tokens, "sglang-0.5", false);
    const OpLine all = *line(with, "moe_experts"), routed = *line(without, "moe_experts");
    CAPTURE(tokens);
    CHECK(all.flops - routed.flops == Approx(58 * 6.0 * tokens * 7168 * 256));
    CHECK(all.bytes - routed.bytes == Approx(58 * 3.0 * 7168 * 256).epsilon(0.01));
    std::int64_t apart = 0;
    for (const OpLine& l : without.ops)
      apart += l.name.rfind("shared_", 0) == 0 && l.time_ns > 0 ? l.time_ns : 0;
    const std::int64_t more = all.time_ns - routed.time_ns;
    CHECK(more > 0);
    CHECK(more < apart);
    // One token reads eight experts' weights, and now a ninth's; of 256 tokens nearly all are read anyway.
    CHECK(static_cast<double>(more) < (tokens == 1 ? 0.15 : 0.05) * static_cast<double>(routed.time_ns));
  }
}

// _torch/modules/fused_moe/fused_moe_triton.py: 2,880 columns become 2,944, in two kernels of every layer;
// and experts are launched from Python, which decode graphs do not show.
TEST_CASE("TensorRT-LLM's experts by Triton pad their rows and keep the host of eager steps busy") {
  const auto host = [](const std::string& engine, bool prompt) {
    Read r = read("hardware: h200\nengine: " + engine + "\nmodel: gpt-oss-120b\n");
    if (!r.errors.empty()) FAIL(to_string(r.errors));
    const PrefillChunk chunk{1024, 0};
    StepShape s;
    s.decode_sequences = prompt ? 0 : 8;
    s.decode_context_tokens = prompt ? 0 : 8000;
    if (prompt) s.prefill = {&chunk, 1};
    const StepBreakdown b = StepPricer::create(r.spec).value().explain(s);
    const OpLine* pad = line(b, "moe_pad");
    CHECK((pad != nullptr) == (engine == "tensorrt-llm-1.0-triton"));
    if (pad != nullptr) CHECK(pad->count == 2 * 36);
    return static_cast<double>(b.timing.launch);
  };
  CHECK(host("tensorrt-llm-1.0-triton", false) == host("tensorrt-llm-1.0", false));
  // 36 layers: 860 us in place of 80, and two kernels of 37.
  const double more = host("tensorrt-llm-1.0-triton", true) - host("tensorrt-llm-1.0", true);
  CHECK(more == Approx(36 * (860e3 - 80e3 + 2 * 37e3)));
}
