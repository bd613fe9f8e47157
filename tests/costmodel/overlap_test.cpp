// What runs side by side or in one kernel: by hand from the lines of a step, where it may run, and what turns
// it. docs/overlap.md
#include <algorithm>
#include <array>
#include <cmath>

#include "catch.h"
#include "costmodel/read_instance.h"
#include "costmodel/step_pricer.h"

using namespace orrery;

namespace {

std::string text(const std::string& engine, const std::string& model, const std::string& plan,
                 const std::string& args, const std::string& hardware = "h200") {
  return "hardware: " + hardware + "\nmodel: " + model + "\nengine: " + engine + "\nparallel: " + plan +
         "\nengine_args: {" + args + "}\n";
}

StepPricer pricer_of(const std::string& of) {
  Read r = read(of);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return StepPricer::create(r.spec).value();
}

StepShape decodes(std::int32_t sequences, std::int64_t context = 1000) {
  StepShape s;
  s.decode_sequences = sequences;
  s.decode_context_tokens = sequences * context;
  return s;
}

const OpLine* line_of(const StepBreakdown& b, const std::string& name) {
  for (const OpLine& line : b.ops) {
    if (line.name == name) return &line;
  }
  return nullptr;
}
std::int64_t line_ns(const StepBreakdown& b, const std::string& name) {
  std::int64_t ns = 0;
  for (const OpLine& line : b.ops) ns += line.name == name ? line.time_ns : 0;
  return ns;
}

// A shared expert's lines, and what stands beside them on one instance.
struct Sides {
  double shared = 0, routed = 0, shared_bytes = 0, routed_bytes = 0;
};
Sides sides_of(const StepBreakdown& b) {
  Sides s;
  for (const OpLine& line : b.ops) {
    const bool shared = line.name.starts_with("shared_") && line.name != "shared_expert_stream";
    const bool routed = line.name == "router" || line.name == "topk" ||
                        (line.name.starts_with("moe_") && line.name != "moe_all_reduce");
    if (!shared && !routed) continue;
    (shared ? s.shared : s.routed) += static_cast<double>(line.time_ns);
    (shared ? s.shared_bytes : s.routed_bytes) += line.bytes;
  }
  return s;
}

constexpr double fork_join = 500, together = 0.83;  // the profiles' figures

}  // namespace

TEST_CASE("shared experts hide behind routed ones, up to what memory gives both") {
  const std::string plan = "{tp: 8}", model = "deepseek-v3";
  const StepPricer on = pricer_of(text("vllm-0.24", model, plan, "")),
                   off = pricer_of(text("vllm-0.24", model, plan, "VLLM_DISABLE_SHARED_EXPERTS_STREAM: 1"));
  for (const std::int32_t n : {1, 8, 64, 256}) {
    INFO(n << " tokens");
    const StepBreakdown b = on.explain(decodes(n)), apart = off.explain(decodes(n));
    const Sides s = sides_of(b);
    const double hidden = -static_cast<double>(line_ns(b, "shared_expert_stream"));
    // As a pair, or as the one that reaches more does alone.
    const double rate = std::max({4800 * together, s.shared_bytes / s.shared, s.routed_bytes / s.routed});
    const double memory = (s.shared_bytes + s.routed_bytes) / rate;
    const double side_by_side = std::max({s.shared, s.routed, memory}) + 58 * fork_join;
    // At 256 tokens the down projection's 112 tiles leave the choice of experts 20 of 132 units.
    if (n < 256) CHECK(hidden == Approx(s.shared + s.routed - side_by_side).margin(100));
    CHECK(hidden <= s.shared + s.routed - side_by_side + 100);
    CHECK(hidden > 0);
    CHECK(hidden < s.shared);
    CHECK(line_of(apart, "shared_expert_stream") == nullptr);
    CHECK(std::abs(apart.timing.busy - b.timing.busy - static_cast<std::int64_t>(hidden)) <= 2);
  }
  // The threshold counts padded tokens: 257 run in the graph of 272.
  CHECK(line_ns(on.explain(decodes(257)), "shared_expert_stream") == 0);
  const StepPricer wider =
      pricer_of(text("vllm-0.24", model, plan, "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD: 272"));
  CHECK(line_ns(wider.explain(decodes(257)), "shared_expert_stream") < 0);
}

// Kernel profiles of DeepSeek-V2-Lite's prompts (h200_vllm_0_24_features, further_mtp): of 72 tokens routing
// and shared expert take 39 µs a layer, of 256 tokens 52, where shared products of 128 tiles keep 128 of 132
// units.
TEST_CASE("shared products that take all units hide nothing of theirs") {
  const StepPricer whole = pricer_of(text("vllm-0.24", "deepseek-v2-lite", "{tp: 1}", ""));
  const auto share = [&](std::int32_t tokens) {
    const StepBreakdown b = whole.explain(decodes(tokens));
    return -static_cast<double>(line_ns(b, "shared_expert_stream")) / sides_of(b).shared;
  };
  CHECK(share(1) > 0.7);
  CHECK(share(64) > 0.7);
  CHECK(share(256) < 0.25);  // the activation's kernel, and what four units take
  CHECK(share(256) > 0);
  double before = 1;
  for (const std::int32_t tokens : {64, 128, 192, 256}) {
    CHECK(share(tokens) <= before + 0.01);
    before = share(tokens);
  }
}

TEST_CASE("a side stream runs where the engine has one") {
  const auto hidden = [](const std::string& of, const StepShape& step) {
    return -line_ns(pricer_of(of).explain(step), "shared_expert_stream");
  };
  const PrefillChunk chunk{64, 0};
  StepShape prompt;
  prompt.prefill = std::span(&chunk, 1);
  const std::string vllm = text("vllm-0.24", "deepseek-v3", "{tp: 8}", "");
  CHECK(hidden(vllm, prompt) > 0);  // any step of few tokens
  for (const char* engine : {"sglang-0.5", "tensorrt-llm-1.2"}) {
    INFO(engine);
    const std::string of = text(engine, "deepseek-v3", "{tp: 8, ep: 8}", "");
    CHECK(hidden(of, decodes(32)) > 0);
    CHECK(hidden(of, prompt) == 0);         // decode graphs alone
    CHECK(hidden(of, decodes(1000)) == 0);  // beyond the captured ones
  }
  // There it is one of the routed ones.
  CHECK(hidden(text("sglang-0.5", "deepseek-v3", "{tp: 8}", ""), decodes(32)) == 0);
  CHECK(hidden(text("vllm-0.24", "deepseek-v3", "{tp: 8}", "", "mi300x"), decodes(32)) == 0);
  CHECK(hidden(text("vllm-0.24", "qwen3-30b-a3b", "{tp: 2}", ""), decodes(32)) == 0);  // no shared experts
}

// vLLM: between the sending and the receiving of the combine; SGLang: beside all of it.
TEST_CASE("with an exchange shared experts hide behind rows on the network") {
  const std::string plan = "{dp: 16, ep: 16}";
  const StepPricer vllm =
      pricer_of(text("vllm-0.24", "deepseek-v3", plan, "all2all_backend: deepep_low_latency"));
  const StepBreakdown b = vllm.explain(decodes(128));
  const Sides s = sides_of(b);
  const double hidden = -static_cast<double>(line_ns(b, "shared_expert_stream"));
  CHECK(hidden > 0);
  CHECK(hidden <= std::min(s.shared, static_cast<double>(line_ns(b, "ep_combine"))));
  // Inside a node rows are stored by the stream's own kernels: nothing to hide behind.
  const StepPricer node =
      pricer_of(text("vllm-0.24", "deepseek-v3", "{dp: 8, ep: 8}", "all2all_backend: deepep_low_latency"));
  CHECK(line_ns(node.explain(decodes(128)), "shared_expert_stream") == 0);
  const StepPricer sglang = pricer_of(
      text("sglang-0.5", "deepseek-v3", plan,
           "moe_a2a_backend: deepep, context_length: 16384, moe_dense_tp_size: 1, enable_dp_lm_head: true"));
  const StepBreakdown all = sglang.explain(decodes(128));
  const double beside = -static_cast<double>(line_ns(all, "shared_expert_stream"));
  CHECK(beside == Approx(sides_of(all).shared - 58 * fork_join).epsilon(0.001));  // shorter than its branch
}

// ------------------------------------------------------------------- all-reduces in one kernel with norms

namespace {
const std::string fuse = "compilation_config: {pass_config: {fuse_allreduce_rms: true";
}

TEST_CASE("a fused all-reduce saves a norm but for what it still moves") {
  const StepBreakdown b =
      pricer_of(text("vllm-0.24", "qwen3-32b", "{tp: 2}", fuse + "}}")).explain(decodes(64));
  const OpLine& norm = *line_of(b, "post_norm");
  std::int64_t count = 0, saved = 0;
  for (const OpLine& line : b.ops) {
    if (line.name != "fused_all_reduce") continue;
    count += line.count;
    saved -= line.time_ns;
  }
  CHECK(count == 2 * 64 + 1);  // two a layer, and the embedding's
  const double apart = static_cast<double>(norm.time_ns) / static_cast<double>(norm.count);
  const double each = static_cast<double>(saved) / static_cast<double>(count);
  // 0.41 of a norm of one row, and three rows of 5,120 values in 16 bits at 0.85 of memory's rate.
  const StepBreakdown single = pricer_of(text("vllm-0.24", "qwen3-32b", "{tp: 2}", "")).explain(decodes(1));
  const OpLine& one = *line_of(single, "post_norm");
  const double left = 0.41 * static_cast<double>(one.time_ns) / static_cast<double>(one.count) +
                      64.0 * 5120 * 2 * 3 / (4800 * 0.85);
  CHECK(each == Approx(apart - left).epsilon(0.02));
  CHECK(each < apart);
  const StepBreakdown without = pricer_of(text("vllm-0.24", "qwen3-32b", "{tp: 2}", "")).explain(decodes(64));
  CHECK(line_of(without, "fused_all_reduce") == nullptr);  // as our installation: no FlashInfer
  CHECK(std::abs(without.timing.busy - b.timing.busy - saved) <= 130);
}

TEST_CASE("what is fused: by the engine's sizes, ranks, models and switches") {
  const auto fused = [](const std::string& of, const StepShape& step) {
    return line_ns(pricer_of(of).explain(step), "fused_all_reduce") < 0;
  };
  // 2 MiB on four ranks are 204 rows of 5,120, half a MiB on eight 51; six ranks are in no table.
  const std::string four = text("vllm-0.24", "qwen3-32b", "{tp: 4}", fuse + "}}");
  CHECK(fused(four, decodes(200)));
  CHECK_FALSE(fused(four, decodes(208)));
  const std::string eight = text("vllm-0.24", "qwen3-32b", "{tp: 8}", fuse + "}}");
  CHECK(fused(eight, decodes(48)));
  CHECK_FALSE(fused(eight, decodes(56)));
  CHECK(fused(text("vllm-0.24", "qwen3-32b", "{tp: 8}", fuse + ", fi_allreduce_fusion_max_size_mb: 1}}"),
              decodes(56)));
  CHECK_FALSE(fused(text("vllm-0.24", "qwen3-32b", "{tp: 1}", fuse + "}}"), decodes(8)));
  CHECK_FALSE(fused(text("vllm-0.24", "qwen3-32b", "{tp: 2}", fuse + "}}, enforce_eager: true"), decodes(8)));

  const std::string moe = "qwen3-30b-a3b", dense = "qwen3-32b";
  CHECK(fused(text("sglang-0.5", moe, "{tp: 2}", ""), decodes(8)));
  CHECK_FALSE(fused(text("sglang-0.5", moe, "{tp: 2}", "enforce_disable_flashinfer_allreduce_fusion: true"),
                    decodes(8)));
  CHECK_FALSE(fused(text("sglang-0.5", dense, "{tp: 2}", ""), decodes(8)));
  CHECK(fused(text("sglang-0.5", dense, "{tp: 2}", "flashinfer_allreduce_fusion_backend: auto"), decodes(8)));
  CHECK_FALSE(fused(text("sglang-0.5", moe, "{tp: 2}", "", "mi300x"), decodes(8)));
  CHECK(
      fused(text("sglang-0.5", moe, "{tp: 2}", "enable_aiter_allreduce_fusion: true", "mi300x"), decodes(8)));
  CHECK_FALSE(fused(text("sglang-0.5", moe, "{dp: 2, ep: 2}", ""), decodes(8)));
  CHECK(fused(text("tensorrt-llm-1.2", moe, "{tp: 2}", ""), decodes(8)));
  CHECK_FALSE(fused(text("tensorrt-llm-1.2", dense, "{tp: 2}", ""), decodes(8)));  // modeling_qwen3.py
  CHECK_FALSE(fused(
      text("tensorrt-llm-1.2", moe, "{tp: 2}", "env_overrides: {TRTLLM_QWEN3_EAGER_FUSION_DISABLED: 1}"),
      decodes(8)));
  const Read ada = read(text("vllm-0.24", dense, "{tp: 4}", fuse + "}}", "l40s"));
  REQUIRE(ada.errors.size() == 1);
  CHECK(to_string(ada.errors).find("no such kernel on l40s") != std::string::npos);
}

// A kernel that cannot quantise by block leaves that to another one.
TEST_CASE("fusing saves no more where the norm had quantised its output") {
  const auto saved = [](const char* format) {
    const std::string of =
        text("vllm-0.24", "qwen3-32b", "{tp: 2}", fuse + "}}") + "quantization: " + format + "\n";
    return -line_ns(pricer_of(of).explain(decodes(64)), "fused_all_reduce");
  };
  CHECK(saved("fp8-block") <= saved("bf16"));
  CHECK(saved("fp8-block") > 0);
  // By a fixed scale FlashInfer's kernel quantises itself.
  CHECK(saved("fp8-tensor") > saved("fp8-block"));
}

// ------------------------------------------------------------------------------------------- early starts

TEST_CASE("kernels that no table timed with it start early, on parts that can") {
  const auto step = [](const std::string& args, const char* part) {
    return pricer_of(text("tensorrt-llm-1.2", "qwen3-8b", "{tp: 1}", args, part)).explain(decodes(16));
  };
  const StepBreakdown on = step("", "h200"), off = step("env_overrides: {TRTLLM_ENABLE_PDL: 0}", "h200");
  const std::int64_t saved = off.timing.busy - on.timing.busy;
  CHECK(saved == -line_ns(on, "early_start"));
  CHECK(line_of(off, "early_start") == nullptr);
  std::int64_t roofline = 0;
  for (const OpLine& line : off.ops) {
    if (line.rung == "roofline" && line.name != "stream_gaps" && line.name != "step_inputs")
      roofline += line.count;
  }
  CHECK(saved == Approx(300.0 * static_cast<double>(roofline)).epsilon(1e-6));  // one kernel each
  CHECK(line_of(step("", "l40s"), "early_start") == nullptr);
}

// ------------------------------------------------------------------------------------------ masked products

// wideep_generation_moe_perf of SGLang 0.5.10 on an H200 (ai-dynamo/aiconfigurator @095f58a), microseconds of
// DeepSeek-V3's layer on a rank, rows spread evenly; ours are of rows that fall as they do, a little more.
TEST_CASE("masked products behind a low-latency exchange meet the published layer") {
  struct Point {
    std::int32_t ranks, each;
    double us;
  };
  constexpr std::array<Point, 5> published{
      {{8, 128, 385.2}, {16, 64, 206}, {16, 128, 207.0}, {32, 128, 124}, {64, 128, 96}}};
  for (const Point& p : published) {
    INFO(p.ranks << " ranks, " << p.each << " tokens each");
    const std::string ranks = std::to_string(p.ranks);
    const StepPricer pricer =
        pricer_of(text("vllm-0.24", "deepseek-v3", "{dp: " + ranks + ", ep: " + ranks + "}",
                       "all2all_backend: deepep_low_latency"));
    const StepBreakdown b = pricer.explain(decodes(p.each));
    const OpLine* line = line_of(b, "moe_experts_masked");
    REQUIRE(line != nullptr);
    CHECK(line_of(b, "moe_experts") == nullptr);
    const double us = static_cast<double>(line->time_ns) / 1e3 / static_cast<double>(line->count);
    CHECK(us == Approx(p.us).epsilon(0.15));
    CHECK(us > 0.97 * p.us);
  }
}

TEST_CASE("SGLang's normal kernels keep the grouped products, low-latency ones are masked") {
  const StepPricer pricer = pricer_of(
      text("sglang-0.5", "deepseek-v3", "{dp: 8, ep: 8}", "moe_a2a_backend: deepep, context_length: 16384"));
  const StepBreakdown decode = pricer.explain(decodes(32));
  CHECK(line_ns(decode, "moe_experts_masked") > 0);
  CHECK(line_of(decode, "moe_experts") == nullptr);
  const PrefillChunk chunk{1024, 0};
  StepShape prompt;
  prompt.prefill = std::span(&chunk, 1);
  const StepBreakdown prefill = pricer.explain(prompt);
  CHECK(line_of(prefill, "moe_experts_masked") == nullptr);
  CHECK(line_ns(prefill, "moe_experts") > 0);
}
