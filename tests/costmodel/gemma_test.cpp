// Gemma 2 and 3 and Phi-3: published sizes, groups of layers, what a layer runs and how sure its prices are.
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "base/files.h"
#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/kv_groups.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"
#include "priced_steps.h"
#include "read_instance.h"

using namespace orrery;

namespace {

std::string deployment(const std::string& model, const std::string& more = "",
                       const char* engine = "vllm-0.24") {
  return "hardware: h200\nmodel: " + model + "\nengine: " + engine + "\n" + more;
}

InstanceSpec instance(const std::string& model, const std::string& more = "",
                      const char* engine = "vllm-0.24") {
  Read r = read(deployment(model, more, engine));
  if (!r.errors.empty()) FAIL(to_string(r.errors));
  return std::move(r.spec);
}

std::string errors_of(const std::string& model, const std::string& more = "",
                      const char* engine = "vllm-0.24") {
  Read r = read(deployment(model, more, engine));
  if (r.errors.empty()) {  // the plan is checked when the graph is built
    const auto made = StepPricer::create(r.spec);
    REQUIRE_FALSE(made.ok());
    return to_string(made.errors());
  }
  return to_string(r.errors);
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

// The lines of a use, summed over kinds of layers: full and windowed attention are two lines of one name.
std::vector<OpLine> lines(const StepPricer& p, const StepShape& shape, const std::string& name) {
  std::vector<OpLine> found;
  for (const OpLine& op : p.explain(shape).ops) {
    if (op.name == name) found.push_back(op);
  }
  return found;
}

std::int64_t launches(const StepPricer& p, const std::string& name) {
  std::int64_t count = 0;
  for (const OpLine& op : lines(p, decodes(4, 100), name)) count += op.count;
  return count;
}

// A config in a file of its own.
Result<ModelSpec> config(const std::string& fields) {
  const std::string path = (std::filesystem::temp_directory_path() / "orrery_gemma_test.json").string();
  REQUIRE(write_file_atomically(path, "{" + fields + "}").ok());
  auto model = load_model(path, ".", "", "auto");
  std::filesystem::remove(path);
  return model;
}

const char* const gemma_3 = R"("architectures": ["Gemma3ForCausalLM"], "hidden_size": 640,
  "num_hidden_layers": 18, "intermediate_size": 2048, "sliding_window": 512, )";
const char* const gemma_2 = R"("architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304,
  "num_hidden_layers": 26, "intermediate_size": 9216, )";
const char* const phi_3 =
    R"("architectures": ["Phi3ForCausalLM"], "hidden_size": 3072, "num_hidden_layers": 32,
  "intermediate_size": 8192, "num_attention_heads": 32, "vocab_size": 32064,
  "max_position_embeddings": 131072, )";

std::string refusal(const std::string& fields) {
  const auto model = config(fields);
  REQUIRE_FALSE(model.ok());
  return to_string(model.errors());
}

}  // namespace

// Totals of the published checkpoints' safetensors indices. The encoder's biases (0.4 M of 417 M) are not
// counted here, so decoders are compared to the parameter and whole models to a per mille.
TEST_CASE("Gemma 3 with its encoder has the published parameters") {
  struct Published {
    const char* profile;
    std::int64_t total, decoder;
  };
  for (const Published& p : {Published{"gemma-3-4b-it", 4'300'079'472, 3'880'263'168},
                             Published{"gemma-3-12b-it", 12'187'325'040, 11'766'034'176},
                             Published{"gemma-3-27b-it", 27'432'406'640, 27'009'346'304}}) {
    INFO(p.profile);
    const ModelSpec m = load_model(p.profile, ".", "", "auto").value();
    REQUIRE(m.vision != nullptr);
    CHECK(m.parameters() - m.vision->parameters() == p.decoder);
    CHECK(static_cast<double>(m.parameters()) == Approx(static_cast<double>(p.total)).epsilon(1e-3));
    CHECK(m.max_positions == 131072);
    CHECK(m.tied_embeddings);
  }
}

TEST_CASE("what Gemma's configs leave out is what transformers assumes") {
  const ModelSpec two = config(gemma_2 + std::string(R"("dtype": "bfloat16")")).value();
  CHECK(two.parameters() == 2'614'341'888);  // google/gemma-2-2b
  CHECK(two.head_dim == 256);
  CHECK(two.max_positions == 8192);
  CHECK(two.attention_softcap);
  CHECK(two.logit_softcap);
  REQUIRE(two.layer_kinds.size() == 2);
  CHECK(two.layer_kinds[0].sliding_window == 4096);  // layers 0, 2, …
  CHECK(two.layer_kinds[0].count == 13);
  CHECK_FALSE(config(gemma_2 + std::string(R"("attn_logit_softcapping": null)"))->attention_softcap);

  const ModelSpec three = config(gemma_3 + std::string(R"("dtype": "bfloat16")")).value();
  CHECK(three.vocabulary == 262208);
  CHECK_FALSE(three.attention_softcap);
  CHECK_FALSE(three.logit_softcap);
  CHECK(three.qk_norm);
  REQUIRE(three.layer_kinds.size() == 2);
  CHECK(three.layer_kinds[0].sliding_window == 512);
  CHECK(three.layer_kinds[0].count == 15);
  CHECK(config(gemma_3 + std::string(R"("sliding_window_pattern": 2)"))->layer_kinds[1].count == 9);
  // Two rotary bases by layer type (transformers 5), one of them with a factor that stretches nothing here.
  const std::string nested = R"("rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0},
    "sliding_attention": {"rope_type": "default"}})";
  CHECK(config(gemma_3 + nested)->max_positions == 131072);
}

TEST_CASE("layers that a config lists go before the pattern") {
  std::string types = R"("layer_types": ["full_attention")";
  for (int i = 1; i < 18; ++i) types += R"(, "sliding_attention")";
  const ModelSpec m = config(gemma_3 + types + "]").value();
  CHECK(m.layer_kinds[0].sliding_window == 0);
  CHECK(m.layer_kinds[0].count == 1);
  CHECK(m.layer_kinds[1].count == 17);
}

TEST_CASE("what is not Gemma as the engines run it is refused by its field") {
  for (const auto& [field, piece] :
       {std::pair{R"("hidden_activation": "silu")", "supported: gelu_pytorch_tanh"},
        {R"("attn_logit_softcapping": 50.0)", "leaves the cap out"},
        {R"("use_bidirectional_attention": true)", "embedding model"},
        {R"("sliding_window_pattern": 1)", "gives to every layer"},
        {R"("num_experts": 4)", "field \"num_experts\" is not understood"}}) {
    INFO(field);
    CHECK(holds(refusal(gemma_3 + std::string(field)), piece));
  }
}

// vLLM's groups (get_kv_cache_groups): as many layers as the rarer kind; the last windowed group is padded.
TEST_CASE("groups of five sliding layers to a full one, with padding where they do not come out even") {
  using Four = std::array<std::int64_t, 4>;
  const auto groups = [](const char* model) {
    const InstanceSpec spec = instance(model);
    const KvCacheGroups g = kv_cache_groups(spec.model, spec.engine);
    return Four{g.full, g.windowed, g.layers, g.window};
  };
  CHECK(groups("gemma-2-9b") == Four{1, 1, 21, 4096});
  CHECK(groups("gemma-3-1b-it") == Four{1, 6, 4, 512});     // 22 sliding, 4 full: 2 layers of padding
  CHECK(groups("gemma-3-4b-it") == Four{1, 6, 5, 1024});    // 29, 5: 1
  CHECK(groups("gemma-3-12b-it") == Four{1, 5, 8, 1024});   // 40, 8: none
  CHECK(groups("gemma-3-27b-it") == Four{1, 6, 10, 1024});  // 52, 10: 8
  CHECK(groups("phi-3-mini") == Four{0, 1, 32, 2047});

  const InstanceSpec spec = instance("gemma-3-27b-it");
  const MemoryPlan plan = plan_memory(spec).value();
  const double page = 2.0 * 16 * 128 * 2 * 16;  // of one layer: both, KV heads, width, bytes, tokens
  CHECK(plan.kv_bytes_per_token.value() == 62 * page / 16);
  CHECK(plan.kv_blocks == static_cast<std::int64_t>(plan.kv_available.value() / page) / 10);
  // All tokens in one group; a window, a step and a block for the odd end in the six others.
  CHECK(plan.groups.blocks_of_sequence(131072, spec.engine.settings) ==
        131072 / 16 + 6 * ((1023 + 8192 + 15) / 16 + 1));
  // Sharing pages by ten layers instead of 62 is what the windows are for.
  const MemoryPlan all =
      plan_memory(instance("gemma-3-27b-it", "engine_args: {disable_hybrid_kv_cache_manager: true}")).value();
  CHECK(plan.kv_tokens() > 3 * all.kv_tokens());
}

// Two norms around attention, two around the MLP, one at the end: 4 layers + 1. vLLM's compiler makes one
// kernel of an output's norm and the add and norm that follow.
TEST_CASE("four norms a layer, on vLLM two kernels, on SGLang four") {
  const StepPricer v = pricer(instance("gemma-2-9b"));
  CHECK(launches(v, "input_norm") == 42);
  CHECK(launches(v, "post_norm") == 42);
  CHECK(launches(v, "final_norm") == 1);
  CHECK(lines(v, decodes(4, 100), "input_norm").size() == 2);  // the first has no output to norm
  CHECK(launches(v, "attention_output_norm") == 0);
  const StepPricer s = pricer(instance("gemma-2-9b", "", "sglang-0.5"));
  CHECK(launches(s, "input_norm") == 42);
  CHECK(launches(s, "attention_output_norm") == 42);
  CHECK(launches(s, "post_norm") == 42);
  CHECK(launches(s, "mlp_output_norm") == 42);
  CHECK(launches(s, "final_norm") == 1);
  CHECK(launches(s, "scale_embedding") == 1);
  CHECK(launches(v, "scale_embedding") == 0);
  // Capped logits: three passes over them, or one with the copy to fp32.
  CHECK(launches(v, "softcap") == 1);
  CHECK(lines(v, decodes(64, 100), "softcap")[0].time_ns >
        lines(v, decodes(64, 100), "logits_fp32")[0].time_ns);
  CHECK(launches(s, "softcap") == 0);
  CHECK(launches(pricer(instance("gemma-3-1b-it")), "softcap") == 0);
  CHECK(launches(v, "gelu_mul") == 42);
  CHECK(launches(v, "silu_mul") == 0);
  CHECK(launches(pricer(instance("phi-3-mini")), "silu_mul") == 32);
}

TEST_CASE("sliding layers read a window of keys, full layers all of them") {
  const StepPricer p = pricer(instance("gemma-3-27b-it"));
  const auto bytes = [&](std::int64_t context) {
    std::array<double, 2> sum{};  // of sliding and full layers
    for (const OpLine& op : lines(p, decodes(16, context), "attention_decode"))
      sum[holds(op.shape, "window=") ? 0 : 1] += op.bytes;
    return sum;
  };
  const double key = 2.0 * 16 * 128 * 2;
  CHECK(bytes(32768)[0] == Approx(52 * 16 * 1024 * key).epsilon(0.01));
  CHECK(bytes(32768)[1] == Approx(10 * 16 * 32769 * key).epsilon(0.01));
  CHECK(bytes(65536)[0] == bytes(32768)[0]);
  CHECK(bytes(512)[0] == Approx(5.2 * bytes(512)[1]));  // below the window they are alike
}

TEST_CASE("prices that no table stands behind say so and are less sure") {
  const auto attention = [](const char* model, const char* more, const char* engine) {
    return lines(pricer(instance(model, more, engine)), decodes(32, 300), "attention_decode").back();
  };
  // FlashAttention 3 at head_dim 256 was timed for vLLM; capped scores were not: an extrapolation.
  const OpLine gemma = attention("gemma-2-9b", "", "vllm-0.24");
  CHECK(gemma.rung == "published");
  CHECK(gemma.hit == "extrapolated");
  const OpLine uncapped = attention("gemma-3-1b-it", "", "vllm-0.24");
  CHECK(uncapped.hit != "extrapolated");
  InstanceSpec plain = instance("gemma-2-9b");
  plain.model.attention_softcap = false;
  CHECK(gemma.error > 1.5 * lines(pricer(plain), decodes(32, 300), "attention_decode").back().error);
  // Nothing was timed at head_dim 256 for SGLang, nor for Triton attention, which the encoder brings to vLLM.
  const OpLine dense = attention("qwen3-8b", "kernels: roofline\n", "vllm-0.24");
  for (const OpLine& op :
       {attention("gemma-2-9b", "", "sglang-0.5"), attention("gemma-3-27b-it", "", "vllm-0.24")}) {
    CHECK(op.rung == "roofline");
    CHECK(op.error == Approx(2 * dense.error));
  }
  // Prompts: a tanh beside every exp may cost up to a third.
  StepShape prompt{};
  const std::array<PrefillChunk, 1> chunk{PrefillChunk{4000, 0}};
  prompt.prefill = chunk;
  prompt.running = 1;
  const InstanceSpec capped = instance("gemma-2-9b");
  InstanceSpec open = capped;
  open.model.attention_softcap = false;
  const auto prefill = [&](const InstanceSpec& spec) {
    return lines(pricer(spec), prompt, "attention_prefill").back();
  };
  CHECK(prefill(capped).error > prefill(open).error);
  CHECK(prefill(capped).time_ns == prefill(open).time_ns);
  // Its pair of norms was timed on the H200, 3,584 wide; on the H100 a plain one stands in.
  const auto norm = [](const InstanceSpec& spec) {
    return lines(pricer(spec), decodes(32, 300), "post_norm")[0];
  };
  CHECK(norm(instance("gemma-2-9b")).hit == "exact");
  CHECK(norm(read("hardware: h100\nmodel: gemma-2-9b\nengine: vllm-0.24\n").spec).hit == "extrapolated");
}

TEST_CASE("KV heads beyond the timed ones are priced as sequences") {
  const InstanceSpec spec = instance("gemma-2-9b");
  REQUIRE(spec.kernels != nullptr);
  const auto decode = [&](std::int64_t heads, std::int64_t kv) {
    return spec.kernels->attention_decode({heads, kv, 256, 0, "bf16"}).value();
  };
  const FittedSurface folded = decode(16, 8), timed = decode(8, 4);
  for (const double sequences : {1.0, 8.0, 100.0})
    CHECK(folded.at(sequences, 4096) == Approx(timed.at(2 * sequences, 4096)));
  CHECK(folded.at(1, 4096) > timed.at(1, 4096));
  CHECK_FALSE(folded.shape_known());
}

TEST_CASE("Gemma on the engines: what is modelled, and what is refused by name") {
  // SGLang keeps every token of Gemma 2, whatever it is told.
  const InstanceSpec sglang =
      instance("gemma-2-9b", "engine_args: {disable_hybrid_swa_memory: false}\n", "sglang-0.5");
  const MemoryPlan plan = plan_memory(sglang).value();
  CHECK(plan.windowed_pool_tokens == 0);
  CHECK(plan.groups.window_layers == 21);
  CHECK(holds(errors_of("gemma-2-9b", "", "tensorrt-llm-1.2"), "not a model of TensorRT-LLM 1.2"));
  CHECK(holds(errors_of("gemma-2-9b", "engine_args: {enforce_eager: true}\n"), "uncompiled"));
}

// Six layers of the 27B are five windowed ones and a full one; 62 are 52 and 10.
TEST_CASE("Gemma 3 elsewhere than on vLLM: every kernel of a layer stands alone") {
  const StepPricer s = pricer(instance("gemma-3-27b-it", "", "sglang-0.5"));
  for (const char* norm : {"input_norm", "attention_output_norm", "post_norm", "mlp_output_norm"}) {
    INFO(norm);
    CHECK(launches(s, norm) == 62);
  }
  CHECK(launches(s, "qk_norm") == 62);
  CHECK(launches(s, "rotary_tables") == 1);
  // Ten operations each of q and k, at least a start each: what vLLM has in one kernel with the rotary.
  const StepPricer v = pricer(instance("gemma-3-27b-it"));
  CHECK(launches(v, "qk_norm") == 0);
  const auto time = [](const StepPricer& p, const char* name) {
    return static_cast<double>(lines(p, decodes(4, 100), name)[0].time_ns);
  };
  CHECK(time(s, "qk_norm") > 5 * time(v, "rotary"));
  // 40 bytes an element of q and k where they do not stay in the cache: 8,192 · 48 heads · 128.
  StepShape prompt{};
  const std::array<PrefillChunk, 1> chunk{PrefillChunk{8192, 0}};
  prompt.prefill = chunk;
  prompt.running = 1;
  CHECK(lines(s, prompt, "qk_norm")[0].bytes == Approx(62 * 8192.0 * 48 * 128 * 40));

  const StepPricer t = pricer(instance("gemma-3-27b-it", "", "tensorrt-llm-1.2"));
  CHECK(launches(t, "residual_add") == 2 * 62);
  for (const char* norm :
       {"input_norm", "attention_output_norm", "post_norm", "mlp_output_norm", "qk_norm"}) {
    INFO(norm);
    CHECK(launches(t, norm) == 62);
  }
  CHECK(launches(t, "scale_embedding") == 1);
  CHECK(time(t, "qk_norm") < time(s, "qk_norm"));
  CHECK(time(t, "gelu_mul") > time(s, "gelu_mul"));  // two kernels
}

TEST_CASE("SGLang keeps Gemma 3's vocabulary whole on every rank, and every token of its windowed layers") {
  const InstanceSpec two = instance("gemma-3-12b-it", "parallel: {tp: 2}\n", "sglang-0.5"),
                     split = instance("gemma-3-12b-it", "parallel: {tp: 2}\n");
  const double embedding = 262208.0 * 3840 * 2;
  const MemoryPlan plan = plan_memory(two).value();
  CHECK(plan.weights.value() - plan_memory(split).value().weights.value() ==
        Approx(embedding / 2).epsilon(1e-3));
  CHECK(plan.windowed_pool_tokens == 0);
  CHECK(plan.groups.window_layers == 40);
  CHECK(launches(pricer(two), "embedding_all_reduce") == 0);
  const auto head = [](const InstanceSpec& spec) {
    return lines(pricer(spec), decodes(4, 100), "lm_head")[0];
  };
  CHECK(head(two).flops == Approx(2 * head(split).flops));
}

TEST_CASE("Gemma 3's images are left out where the engine leaves them out, and the encoder stays loaded") {
  for (const char* engine : {"sglang-0.5", "tensorrt-llm-1.2"}) {
    INFO(engine);
    const InstanceSpec spec = instance("gemma-3-4b-it", "", engine);
    CHECK(spec.engine.settings.encoder.image_limit == 0);
    CHECK(plan_memory(spec).value().encoder.value() > 0);
  }
  const auto asked = [](const char* model, const char* flag) {
    return instance(model, std::string("engine_args: {enable_multimodal: ") + flag + "}\n", "sglang-0.5")
        .engine.settings;
  };
  CHECK(asked("gemma-3-4b-it", "true").encoder.image_limit > 0);
  CHECK(asked("gemma-3-4b-it", "true").prefill_graph_sizes.empty());
  CHECK(asked("qwen3-vl-8b", "false").encoder.image_limit == 0);
  CHECK_FALSE(asked("qwen3-vl-8b", "false").prefill_graph_sizes.empty());
  // A model that takes images has no graphs of prompts on SGLang, whose pool is the larger for it.
  CHECK(instance("qwen3-vl-8b", "", "sglang-0.5").engine.settings.prefill_graph_sizes.empty());
  CHECK_FALSE(instance("gemma-3-4b-it", "", "sglang-0.5").engine.settings.prefill_graph_sizes.empty());
}

// TensorRT-LLM: half of the memory each, so 40 windowed layers get fewer tokens than the 8 full ones.
TEST_CASE("n-grams are looked for in Gemma 3's text where it takes text only") {
  const std::string ngram = "speculation: {method: ngram, tokens: 3, acceptance: 0.6, match_rate: 0.5}\n";
  for (const char* model : {"gemma-3-1b-it", "gemma-3-4b-it", "gemma-3-12b-it", "gemma-3-27b-it"}) {
    CAPTURE(model);
    const InstanceSpec spec = instance(model, ngram, "tensorrt-llm-1.2");
    CHECK(spec.engine.settings.encoder.compute_budget == 0);
    CHECK(StepPricer::create(spec).ok());
  }
  CHECK(instance("qwen2.5-vl-7b", ngram, "tensorrt-llm-1.2").engine.settings.encoder.compute_budget > 0);
  CHECK(holds(errors_of("qwen2.5-vl-7b",
                        "speculation: {method: eagle, tokens: 3, acceptance: 0.6, draft: {kind: eagle3}}\n",
                        "tensorrt-llm-1.2"),
              "spec_metadata"));
}

TEST_CASE("Gemma 3 with max_attention_window: a pool for each width, the layers by their pattern") {
  const auto args = [](const std::string& windows) {
    return "engine_args: {max_seq_len: 16384, kv_cache_config: {enable_block_reuse: false, "
           "max_attention_window: " +
           windows + "}}\n";
  };
  const InstanceSpec spec =
      instance("gemma-3-12b-it", args("[1024, 1024, 1024, 1024, 1024, 16384]"), "tensorrt-llm-1.2");
  const MemoryPlan plan = plan_memory(spec).value();
  CHECK(spec.engine.settings.tensorrt_llm.window == 1024);
  CHECK(static_cast<double>(plan.kv_blocks) ==
        Approx(5.0 * static_cast<double>(plan.windowed_blocks)).epsilon(1e-3));
  for (const char* windows :
       {"[1024, 16384]", "[512, 512, 512, 512, 512, 16384]", "[16384, 1024, 1024, 1024, 1024, 1024]"})
    CHECK(holds(errors_of("gemma-3-12b-it", args(windows), "tensorrt-llm-1.2"),
                "expected [1024, 1024, 1024, 1024, 1024, 16384]"));
}

// kv_cache_utils.py names the case: 12 windowed layers and 13 full ones are two groups of 13, not three
// of 12.
TEST_CASE("a drafting layer joins vLLM's full layers, in groups that are padded rather than split") {
  const std::string eagle =
      "speculation: {method: eagle, tokens: 3, acceptance: 0.5, draft: {layers: 1, intermediate: 8192}}\n";
  const MemoryPlan alone = plan_memory(instance("gpt-oss-20b")).value(),
                   drafts = plan_memory(instance("gpt-oss-20b", eagle)).value();
  CHECK(alone.groups.layers == 12);
  CHECK(drafts.groups.layers == 13);
  CHECK(drafts.groups.full == 1);
  CHECK(drafts.groups.windowed == 1);
  const double page = alone.kv_bytes_per_token.value() / 24 * static_cast<double>(alone.block_size);
  CHECK(drafts.kv_blocks == static_cast<std::int64_t>(drafts.kv_available.value() / page) / 13);
}

// Both engines run these models' layers without the window that their configs have.
TEST_CASE("Phi-3 and Mistral keep and read every token on SGLang and TensorRT-LLM") {
  for (const char* engine : {"sglang-0.5", "tensorrt-llm-1.2"}) {
    for (const char* model : {"phi-3-mini", "mistral-7b-v0.1"}) {
      INFO(engine << " " << model);
      const InstanceSpec spec = instance(model, "", engine);
      CHECK(plan_memory(spec).value().groups.window_layers == 0);
      CHECK_FALSE(holds(lines(pricer(spec), decodes(8, 4000), "attention_decode")[0].shape, "window"));
      CHECK(spec.engine.ignored_args == std::vector<std::string>{"sliding_window of the model's config"});
    }
  }
}

// A drafting layer keeps every token, like the full layers: 13 of them beside 12 windowed ones at a fifth.
TEST_CASE("SGLang's pools of windowed layers beside drafts") {
  const std::string windows = "engine_args: {swa_full_tokens_ratio: 0.2}\n";
  const MemoryPlan alone = plan_memory(instance("gpt-oss-20b", windows, "sglang-0.5")).value();
  const InstanceSpec ngram = instance(
      "gpt-oss-20b", windows + "speculation: {method: ngram, tokens: 3, acceptance: 0.5, match_rate: 0.7}\n",
      "sglang-0.5");
  const MemoryPlan drafts = plan_memory(ngram).value();
  CHECK(drafts.windowed_pool_tokens == drafts.kv_tokens() / 5);
  CHECK(drafts.kv_bytes_per_token.value() == alone.kv_bytes_per_token.value());
  const MemoryPlan eagle =
      plan_memory(instance("gpt-oss-20b",
                           windows + "speculation: {method: eagle, tokens: 3, acceptance: 0.5, "
                                     "draft: {layers: 1, intermediate: 8192}}\n",
                           "sglang-0.5"))
          .value();
  CHECK(eagle.kv_bytes_per_token.value() == Approx(alone.kv_bytes_per_token.value() * 25 / 24));
  const double layer = alone.kv_bytes_per_token.value() / 24;
  CHECK(static_cast<double>(eagle.kv_tokens()) ==
        Approx(eagle.kv_available.value() / (layer * (13 + 0.2 * 12))).epsilon(1e-4));
}

TEST_CASE("Gemma 3 with its encoder keeps an image in one chunk, as vLLM insists") {
  CHECK(instance("gemma-3-4b-it").engine.settings.encoder.disable_chunked_mm_input);
  CHECK(instance("gemma-3-4b-it", "engine_args: {disable_chunked_mm_input: false}\n")
            .engine.settings.encoder.disable_chunked_mm_input);
  CHECK_FALSE(instance("qwen3-vl-8b").engine.settings.encoder.disable_chunked_mm_input);
}

TEST_CASE("Phi-3: LongRoPE's context must be asked for, and a window that nobody outgrows is none") {
  const InstanceSpec spec = instance("phi-3-medium-128k");
  CHECK(spec.engine.settings.max_model_len == 4096);
  CHECK(
      instance("phi-3-medium-128k", "engine_args: {max_model_len: 131072}\n").engine.settings.max_model_len ==
      131072);
  CHECK(kv_cache_groups(spec.model, spec.engine).windowed == 1);
  const OpLine decode = lines(pricer(spec), decodes(8, 4000), "attention_decode")[0];
  CHECK_FALSE(holds(decode.shape, "window"));
  const InstanceSpec mini = instance("phi-3-mini");  // 2,047 of 4,096
  CHECK(mini.engine.settings.max_model_len == 4096);
  CHECK(holds(lines(pricer(mini), decodes(8, 4000), "attention_decode")[0].shape, "window=2047"));
  const auto ropes = [](const std::string& more) { return config(phi_3 + more).value(); };
  CHECK(ropes(R"("original_max_position_embeddings": 4096)").original_positions == 0);
  const ModelSpec longer = ropes(
      R"("original_max_position_embeddings": 4096, "rope_scaling": {"type": "su", "short_factor": [1.0]})");
  CHECK(longer.original_positions == 4096);
  CHECK(longer.max_positions == 131072);
  CHECK(holds(refusal(phi_3 + std::string(R"("lm_head_bias": true)")), "lm_head"));
}

// 2 · 4,000 · 5,120 · 160 operations of a layer on 67 TFLOP/s at best, where matrix units would take a tenth.
TEST_CASE("GLM-4.5's router multiplies in fp32, not on matrix units") {
  const StepPricer p = pricer(instance("glm-4.5", "parallel: {tp: 8}\n"));
  StepShape prompt{};
  const std::array<PrefillChunk, 1> chunk{PrefillChunk{4000, 0}};
  prompt.prefill = chunk;
  prompt.running = 1;
  const OpLine router = lines(p, prompt, "router")[0];
  CHECK(router.count == 89);
  CHECK(holds(router.shape, "fp32"));
  CHECK(router.rung == "roofline");
  CHECK(static_cast<double>(router.time_ns) / 89 > 2.0 * 4000 * 5120 * 160 / 67e3);
  CHECK(static_cast<double>(router.time_ns) / 89 < 5 * 2.0 * 4000 * 5120 * 160 / 67e3);
  CHECK(router.error ==
        Approx(2 * lines(pricer(instance("qwen3-8b", "kernels: roofline\n")), prompt, "qkv_proj")[0].error));
  CHECK(holds(errors_of("glm-4.5-air", "", "tensorrt-llm-1.2"), "on vllm only"));
  CHECK(holds(errors_of("glm-4.5-air", "", "sglang-0.5"), "TF32"));
}
