// Published kernels of latent attention: the tables' figures, which of them prices what, the backends that
// engines choose, and models that have it.
#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/kernel_set.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "read_instance.h"

using namespace orrery;

namespace {

InstanceSpec instance(const std::string& more, const std::string& engine = "vllm-0.24",
                      const std::string& model = "deepseek-v3", const std::string& hardware = "h200") {
  Read r = read("hardware: " + hardware + "\nmodel: " + model + "\nengine: " + engine +
                "\nparallel: {tp: 8}\n" + more);
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

OpLine line(const InstanceSpec& spec, const StepShape& shape, const std::string& name) {
  auto made = StepPricer::create(spec);
  if (!made.ok()) FAIL(to_string(made.errors()));
  for (const OpLine& op : made->explain(shape).ops) {
    if (op.name == name) return op;
  }
  FAIL("no operator " << name);
  return {};
}

StepShape decodes(std::int32_t sequences, std::int64_t context) {
  StepShape shape{};
  shape.decode_sequences = sequences;
  shape.decode_context_tokens = sequences * (context - 1);  // the new token is a key too
  shape.running = sequences;
  return shape;
}

StepShape prompt(std::vector<PrefillChunk>& chunks, std::int32_t tokens, std::int64_t context = 0) {
  chunks = {{tokens, context}};
  StepShape shape{};
  shape.prefill = chunks;
  shape.running = 1;
  return shape;
}

AttentionShape absorbed(std::int64_t heads, const char* kv) { return {heads, 1, 576, 0, kv, 512}; }

double decode_us(const std::string& part, const std::string& set, std::int64_t heads, const char* kv,
                 double sequences, double keys) {
  struct Tables {
    HardwareProfile hardware;
    std::shared_ptr<const KernelSet> kernels;
  };
  static std::map<std::string, Tables> read_once;
  Tables& tables = read_once[part + " " + set];
  if (!tables.kernels) {
    tables.hardware = load_hardware(part).value();
    tables.kernels = KernelSet::load(tables.hardware, set).value();
  }
  const HardwareProfile& hardware = tables.hardware;
  const auto surface = tables.kernels->mla_decode(absorbed(heads, kv));
  REQUIRE(surface);
  const double bound =
      mla_decode_bound_ns(PartRates::of(hardware), absorbed(heads, kv), sequences, sequences * keys);
  return bound / surface->at(sequences, keys) / 1000;
}

}  // namespace

TEST_CASE("latent attention's tables give back the published figures") {
  // Copied by hand: generation_mla_perf of sglang 0.5.14 and trtllm 1.3.0rc20, H200.
  CHECK(decode_us("h200", "sglang-0.5", 16, "bf16", 64, 8192) == Approx(160.8).epsilon(0.02));
  CHECK(decode_us("h200", "sglang-0.5", 128, "bf16", 128, 4096) == Approx(261.5).epsilon(0.02));
  CHECK(decode_us("h200", "tensorrt-llm-1.2", 16, "bf16", 8, 1024) == Approx(17.3).epsilon(0.02));
  CHECK(decode_us("h200", "tensorrt-llm-1.2", 16, "bf16", 64, 1024) == Approx(39.3).epsilon(0.02));
  // vLLM's, by difference of modules: 238.8 − 139.2 µs of the module (8 bits, 16 heads) and a start of 10
  // to 15.
  CHECK(decode_us("h200", "vllm-0.24", 16, "fp8", 64, 8192) == Approx(112).epsilon(0.04));
}

TEST_CASE("two engines' timings of the same decode kernel agree where launches do not matter") {
  // vLLM's figures are differences of module timings, SGLang's the kernel's own: both run FA3 in bf16.
  for (const char* part : {"h100", "h200"}) {
    for (const std::int64_t heads : {8, 16, 32, 64, 128}) {
      for (const double keys : {4096.0, 16384.0, 65536.0}) {
        const double ratio = decode_us(part, "vllm-0.24", heads, "bf16", 16, keys) /
                             decode_us(part, "sglang-0.5", heads, "bf16", 16, keys);
        INFO(part << " heads " << heads << " keys " << keys);
        CHECK(ratio == Approx(1).margin(0.2));
      }
    }
  }
}

TEST_CASE("published kernels price latent attention, with their errors") {
  const InstanceSpec spec = instance("");
  for (const char* name : {"attention_decode", "absorb"}) {
    const OpLine op = line(spec, decodes(64, 8192), name);
    CHECK(op.rung == "published");
    CHECK(op.error > 0);
  }
  std::vector<PrefillChunk> chunks;
  CHECK(line(spec, prompt(chunks, 4096), "attention_prefill").rung == "published");
  CHECK(line(spec, prompt(chunks, 4096), "kv_b_proj").rung == "published");
  // No engine's was published for the H20.
  CHECK(line(instance("", "vllm-0.24", "deepseek-v3", "h20"), decodes(64, 8192), "attention_decode").rung ==
        "roofline");
}

TEST_CASE("an older release has the kernels of its own tables, and its base's where the part has none") {
  const InstanceSpec older = instance("", "sglang-0.5.9"), newer = instance("", "sglang-0.5");
  REQUIRE(older.kernels);
  REQUIRE(newer.kernels);
  CHECK(older.kernels->name() != newer.kernels->name());
  CHECK(line(older, decodes(4, 1024), "qkv_a_proj").time_ns !=
        line(newer, decodes(4, 1024), "qkv_a_proj").time_ns);
  const auto on_l40s = [](const std::string& engine) { return instance("", engine, "qwen3-8b", "l40s"); };
  REQUIRE(on_l40s("sglang-0.5.9").kernels);
  CHECK(on_l40s("sglang-0.5.9").kernels->name() == on_l40s("sglang-0.5").kernels->name());
}

// tools/kernel_tables/layers.py (as_served): both releases serve 257 experts in tuned tiles of 16 rows, their
// tables were timed on 256 in another file's. Copied by hand: moe_perf of sglang 0.5.9, H200, the whole width
// at 4 and 32 tokens, 403 and 2,597 us; around the products 9 kernels that start in 3.4 us and the choice,
// 3.9. The layer's line and that of the choice add up.
TEST_CASE("DeepSeek's layers on SGLang and eight GPUs are the whole layer's products by width") {
  for (const char* release : {"sglang-0.5.9", "sglang-0.5"}) {
    CAPTURE(release);
    InstanceSpec spec = instance("", release);
    spec.engine.kernel_laws.clear();  // the 257th apart
    const double around = 9 * 3.38 + 3.9, layers = 58;
    for (const auto& [tokens, whole] : {std::pair{4, 403.0}, std::pair{32, 2597.0}}) {
      const double chosen = 256 * (1 - std::pow(31.0 / 32, tokens)) / std::min(256, 8 * tokens);
      const double us = ((whole - around) / 8 + around) * chosen;
      const StepShape shape = decodes(tokens, 1024);
      const std::int64_t both = line(spec, shape, "moe_experts").time_ns + line(spec, shape, "topk").time_ns;
      CHECK(static_cast<double>(both) / layers == Approx(us * 1000).epsilon(0.02));
    }
  }
}

TEST_CASE("no price of latent attention is below what the data sheet allows, nor falls with more work") {
  for (const char* engine : {"vllm-0.24", "sglang-0.5", "tensorrt-llm-1.2"}) {
    const InstanceSpec spec = instance("", engine);
    const auto made = StepPricer::create(spec);
    REQUIRE(made.ok());
    std::int64_t last = 0;
    for (std::int64_t context = 16; context <= 65536; context *= 2) {
      for (const OpLine& op : made->explain(decodes(32, context)).ops) {
        if (op.name != "attention_decode") continue;
        CHECK(op.time_ns >= last);
        CHECK(static_cast<double>(op.time_ns) >= 61 * 32.0 * static_cast<double>(context) * 576 * 2 / 4800);
        last = op.time_ns;
      }
    }
  }
}

// vLLM 0.24's fused_experts is a Python function of several launches (reports/results/features_h200.md:
// DeepSeek-V2-Lite's steps with prompts were launched in twice the time while this was charged for timed
// shapes only).
TEST_CASE("experts are launched from Python whether or not their kernels were timed as a whole") {
  const auto launch_us = [](InstanceSpec spec) {
    std::vector<PrefillChunk> chunks;
    return static_cast<double>(StepPricer::create(spec)->price(prompt(chunks, 1024)).launch) / 1e3;
  };
  const auto of_experts = [&](const std::string& model, const char* op) {
    InstanceSpec spec = instance("", "vllm-0.24", model);
    std::vector<PrefillChunk> chunks;
    line(spec, prompt(chunks, 1024), op);  // how this model's experts are priced
    const double with = launch_us(spec);
    spec.engine.host.launch_experts.value = Seconds(0);
    return with - launch_us(spec);
  };
  CHECK(of_experts("deepseek-v2-lite", "moe_gate_up") == Approx(26 * 860));
  CHECK(of_experts("qwen3-235b-a22b", "moe_experts") == Approx(94 * 860));
}

TEST_CASE("short prompts on vLLM and captured steps on SGLang are absorbed, others expanded") {
  std::vector<PrefillChunk> chunks;
  const InstanceSpec vllm = instance("");
  CHECK(line(vllm, prompt(chunks, 512), "attention_absorbed").flops ==
        Approx(61 * 2.0 * 16 * (576 + 512) * 512 * 513 / 2));
  CHECK(line(vllm, prompt(chunks, 512), "kv_b_proj").time_ns == 0);
  CHECK(line(vllm, prompt(chunks, 513), "attention_absorbed").time_ns == 0);
  CHECK(line(vllm, prompt(chunks, 513), "attention_prefill").flops ==
        Approx(61 * 2.0 * 16 * (192 + 128) * 513 * 514 / 2));
  const InstanceSpec sglang = instance("", "sglang-0.5");
  CHECK(line(sglang, prompt(chunks, 8192), "kv_b_proj").time_ns == 0);
  CHECK(line(sglang, prompt(chunks, 8192), "attention_absorbed").time_ns > 0);
  CHECK(line(sglang, prompt(chunks, 16384), "attention_absorbed").time_ns == 0);
}

TEST_CASE("§2.8 a latent cache comes in the blocks of the backend that the engine chooses") {
  CHECK(instance("").engine.settings.block_size == 16);
  const InstanceSpec eight = instance("kv_cache_dtype: fp8\n");
  CHECK(eight.engine.settings.block_size == 64);
  CHECK(eight.engine.latent.name == "FLASHMLA");
  CHECK(plan_memory(eight)->block_size == 64);
  CHECK(instance("kv_cache_dtype: fp8\nengine_args: {block_size: 128}\n").engine.settings.block_size == 128);
  CHECK(instance("kv_cache_dtype: fp8\n", "vllm-0.24", "qwen3-8b").engine.settings.block_size == 16);
  CHECK(instance("", "tensorrt-llm-1.2").engine.settings.block_size == 64);
  const auto refused = [](const std::string& more, const std::string& engine, const std::string& words) {
    const Read r =
        read("hardware: h200\nmodel: deepseek-v3\nparallel: {tp: 8}\nengine: " + engine + "\n" + more);
    INFO(to_string(r.errors));
    return r.errors.size() == 1 && to_string(r.errors).find(words) != std::string::npos;
  };
  CHECK(refused("kv_cache_dtype: fp8\nengine_args: {block_size: 16}\n", "vllm-0.24", "FLASHMLA"));
  CHECK(refused("engine_args: {kv_cache_config: {tokens_per_block: 32}}\n", "tensorrt-llm-1.2", "FlashMLA"));
}

// flashattention_backend.py of SGLang 0.5.23, `get_key_buffer(layer).to(q.dtype)`.
TEST_CASE(
    "SGLang copies a layer's pool of 8-bit latents before every absorbed launch, and holds twice the "
    "tokens") {
  const InstanceSpec wide = instance("", "sglang-0.5"),
                     eight = instance("kv_cache_dtype: fp8\n", "sglang-0.5");
  const MemoryPlan plan = plan_memory(eight).value();
  CHECK(plan.kv_bytes_per_token.value() == 61 * 576);
  CHECK(plan.kv_blocks == Approx(2.0 * static_cast<double>(plan_memory(wide)->kv_blocks)).epsilon(1e-4));
  const StepShape few = decodes(4, 1000), many = decodes(64, 8192);
  // Read in 8 bits, written in 16, whoever holds it; attention then reads what it reads without.
  const double pool = static_cast<double>(plan.kv_blocks * plan.block_size) * 576;
  CHECK(line(eight, few, "latent_pool_cast").bytes == Approx(61 * 3 * pool));
  CHECK(line(eight, many, "latent_pool_cast").bytes == Approx(61 * 3 * pool));
  CHECK(line(eight, many, "attention_decode").time_ns == line(wide, many, "attention_decode").time_ns);
  std::vector<PrefillChunk> chunks{{.new_tokens = 512, .context = 0}};
  CHECK(line(eight, prompt(chunks, 512), "latent_pool_cast_prompts").bytes ==
        Approx(61 * 3 * pool));  // absorbed
  std::vector<PrefillChunk> longer{{.new_tokens = 16384, .context = 0}};
  CHECK(line(eight, prompt(longer, 16384), "latent_pool_cast_prompts").time_ns == 0);
  // A smaller pool is a smaller copy.
  const InstanceSpec small =
      instance("kv_cache_dtype: fp8\nengine_args: {max_total_tokens: 200000}\n", "sglang-0.5");
  CHECK(line(small, few, "latent_pool_cast").bytes == Approx(61 * 3 * 200000.0 * 576));
}

TEST_CASE("drafts that a latent decode verifies read no more keys and multiply more") {
  const InstanceSpec spec = instance("speculation: {method: mtp, tokens: 3, acceptance: 0.8}\n");
  StepShape shape = decodes(64, 8192);
  const OpLine one = line(spec, shape, "attention_decode");
  shape.draft_tokens = 3 * 64;
  const OpLine four = line(spec, shape, "attention_decode");
  CHECK(four.flops == Approx(4 * one.flops).epsilon(0.001));
  CHECK(four.bytes == Approx(one.bytes).epsilon(0.001));
  CHECK(four.time_ns >= one.time_ns);
}

TEST_CASE("parameters and cache of models with latent attention are the published ones") {
  struct Row {
    const char* model;
    double total, active, kv;  // parameters, model cards; bytes of a token at bf16
    double slack;              // of the active ones: cards differ in whether they count embedding and head
  };
  for (const Row& row :
       {Row{"deepseek-v3", 671e9, 37e9, 70272, 0.03}, Row{"deepseek-r1", 671e9, 37e9, 70272, 0.03},
        Row{"kimi-k2", 1.026e12, 32e9, 70272, 0.04}, Row{"kimi-k2.5", 1.026e12, 32e9, 70272, 0.04}}) {
    const ModelSpec model = load_model(row.model, ".", "", "auto").value();
    INFO(row.model);
    CHECK(static_cast<double>(model.parameters()) == Approx(row.total).epsilon(0.002));
    CHECK(static_cast<double>(model.active_parameters()) == Approx(row.active).epsilon(row.slack));
    CHECK(model.kv_bytes_per_token().value() == row.kv);
  }
  const ModelSpec v3 = load_model("deepseek-v3", ".", "", "auto").value();
  const double embedding = 129280.0 * 7168;
  CHECK(static_cast<double>(v3.active_parameters()) - embedding == Approx(36.6e9).epsilon(0.005));
}

TEST_CASE("Kimi-K2.5 keeps 4 bits in its experts alone, with a scale for each 32") {
  const ModelSpec model = load_model("kimi-k2.5", ".", "", "auto").value();
  CHECK(model.quantization == Quantization::w4a16);
  for (const LayerKind& kind : model.layer_kinds) {
    for (const WeightTensor& t : kind.weights) {
      INFO(t.name);
      const bool expert = t.name.starts_with("experts.");
      CHECK((t.dtype == DType::int4) == expert);
      if (expert) CHECK(t.bytes().value() == Approx(static_cast<double>(t.parameters()) * (0.5 + 2.0 / 32)));
    }
  }
  CHECK(model.weight_bytes().value() == Approx(595e9).epsilon(0.02));  // the checkpoint's files: 595 GB
}

// srt/models/deepseek_common/attention_forward_methods/forward_mla.py, layers/communicator.py of SGLang
// 0.5.23: norms that quantise are AITER's; elsewhere the product's own kernel does, as with any other
// attention.
TEST_CASE("SGLang on NVIDIA quantises behind the norms of latent attention by kernels of their own") {
  InstanceSpec sglang = instance("", "sglang-0.5");
  sglang.engine.kernel_laws.clear();  // the shared expert by itself
  const StepShape shape = decodes(8, 1024);
  for (const char* name : {"input_quantize", "q_a_quantize", "o_quantize"}) {
    CAPTURE(name);
    CHECK(line(sglang, shape, name).count == 61);
  }
  CHECK(line(sglang, shape, "shared_quantize").count == 58);
  CHECK(line(sglang, shape, "q_a_norm").shape != line(instance(""), shape, "q_a_norm").shape);  // bf16
  for (const OpLine& op : StepPricer::create(instance(""))->explain(shape).ops) {
    CHECK(op.name != "input_quantize");
    CHECK(op.name != "q_a_quantize");
  }
}

// tensorrt_llm/_torch/modules/linear.py, FP8BlockScalesLinearMethod.apply: blocks are made by a kernel of the
// product's own.
TEST_CASE(
    "TensorRT-LLM quantises in blocks by kernels of their own, its attention embeds positions and writes "
    "keys") {
  const InstanceSpec spec = instance("", "tensorrt-llm-1.2");
  const StepShape shape = decodes(8, 1024);
  for (const char* name : {"input_quantize", "q_a_quantize", "o_quantize"}) {
    CAPTURE(name);
    CHECK(line(spec, shape, name).count == 61);
  }
  CHECK(line(spec, shape, "shared_quantize").count == 58);
  CHECK(line(spec, shape, "shared_silu_mul_quantize").count == 58);
  const auto has = [&](const InstanceSpec& of, const char* name) {
    for (const OpLine& op : StepPricer::create(of)->explain(shape).ops)
      if (op.name == name) return true;
    return false;
  };
  const InstanceSpec normed = instance("", "tensorrt-llm-1.2", "qwen3-8b"),
                     plain = instance("", "tensorrt-llm-1.2", "llama-3.1-8b");
  CHECK(has(normed, "rotary"));  // with the norms of heads: fused_qk_norm_rope
  CHECK_FALSE(has(normed, "kv_write"));
  CHECK_FALSE(has(plain, "rotary"));
  CHECK_FALSE(has(plain, "kv_write"));
  CHECK_FALSE(has(plain, "input_quantize"));
  const InstanceSpec wide = instance("", "tensorrt-llm-1.2", "phi-3-mini");  // heads of 96: a roofline
  CHECK(has(wide, "rotary"));
  CHECK(has(wide, "kv_write"));
}
