// Models: parameter counts that their makers publish, and configs that nobody should take on trust.
#include "costmodel/model_spec.h"

#include <array>
#include <filesystem>
#include <string>

#include "base/files.h"
#include "catch.h"
#include "costmodel/profile_folder.h"
#include "costmodel/shared_data.h"

using namespace orrery;

namespace {

struct Published {
  const char* profile;
  const char* config;  // in ../shared/data/hf_configs; null = not there
  std::int64_t parameters, active;
  double weight_bytes;  // 0 = two bytes a parameter
};

// Totals are those of the checkpoints' safetensors indices (Hugging Face pages); active ones count embedding
// and lm_head.
constexpr std::array published{
    Published{"qwen3-0.6b", "Qwen--Qwen3-0.6B", 596'049'920, 596'049'920, 0},
    Published{"qwen3-1.7b", "Qwen--Qwen3-1.7B", 1'720'574'976, 1'720'574'976, 0},
    Published{"qwen3-4b", nullptr, 4'022'468'096, 4'022'468'096, 0},
    Published{"qwen3-8b", "Qwen--Qwen3-8B", 8'190'735'360, 8'190'735'360, 0},
    Published{"qwen3-14b", "Qwen--Qwen3-14B", 14'768'307'200, 14'768'307'200, 0},
    Published{"qwen3-32b", "Qwen--Qwen3-32B", 32'762'123'264, 32'762'123'264, 0},
    Published{"qwen3-30b-a3b", "Qwen--Qwen3-30B-A3B", 30'532'122'624, 3'353'032'704, 0},
    Published{"qwen3-30b-a3b-fp8", "Qwen--Qwen3-30B-A3B-FP8", 30'532'122'624, 3'353'032'704, 31.175e9},
    Published{"qwen3-235b-a22b", "Qwen--Qwen3-235B-A22B", 235'093'634'560, 22'190'763'520, 0},
    Published{"qwen3-coder-480b-a35b", "Qwen--Qwen3-Coder-480B-A35B-Instruct", 480'154'875'392,
              35'474'765'312, 0},
    Published{"llama-2-7b", "blis--llama-2-7b-hf", 6'738'415'616, 6'738'415'616, 0},
    Published{"llama-2-70b", "meta-llama--Llama-2-70b-hf", 68'976'648'192, 68'976'648'192, 0},
    Published{"llama-3.1-8b", "meta-llama--Meta-Llama-3.1-8B", 8'030'261'248, 8'030'261'248, 0},
    Published{"llama-3.1-70b", "meta-llama--Meta-Llama-3.1-70B", 70'553'706'496, 70'553'706'496, 0},
    Published{"llama-3.1-405b", "meta-llama--Meta-Llama-3.1-405B", 405'853'388'800, 405'853'388'800, 0},
    Published{"codellama-34b", "codellama--CodeLlama-34b-Instruct-hf", 33'743'970'304, 33'743'970'304, 0},
    Published{"mistral-7b-v0.1", nullptr, 7'241'732'096, 7'241'732'096, 0},
    Published{"mistral-nemo-12b", "blis--mistral-nemo-instruct-2407", 12'247'782'400, 12'247'782'400, 0},
    Published{"yi-34b", "blis--yi-34b", 34'388'917'248, 34'388'917'248, 0},
    Published{"mixtral-8x7b", "mistralai--Mixtral-8x7B-v0.1", 46'702'792'704, 12'879'925'248, 0},
    Published{"mixtral-8x22b", "mistralai--Mixtral-8x22B-v0.1", 140'620'634'112, 39'152'031'744, 0},
    Published{"qwen2.5-7b", "Qwen--Qwen2.5-7B-Instruct", 7'615'616'512, 7'615'616'512, 0},
    Published{"gemma-2-9b", nullptr, 9'241'705'984, 9'241'705'984, 0},
    Published{"gemma-2-27b", nullptr, 27'227'128'320, 27'227'128'320, 0},
    Published{"gemma-3-1b-it", nullptr, 999'885'952, 999'885'952, 0},
    Published{"phi-3-mini", nullptr, 3'821'079'552, 3'821'079'552, 0},
    Published{"phi-3-medium-128k", nullptr, 13'960'238'080, 13'960'238'080, 0},
    Published{"phi-4-mini", nullptr, 3'836'021'760, 3'836'021'760, 0},
    Published{"gpt-oss-20b", "openai--gpt-oss-20b", 20'914'757'184, 4'187'440'704, 13.761e9},
    Published{"gpt-oss-120b", "openai--gpt-oss-120b", 116'829'156'672, 5'711'982'912, 65.249e9},
};

ModelSpec load(const std::string& name, const std::string& quantization = "",
               const std::string& kv = "auto") {
  auto model = load_model(name, ".", quantization, kv);
  if (!model.ok()) FAIL(to_string(model.errors()));
  return std::move(model).value();
}

WeightTensor tensor(const ModelSpec& model, const std::string& name) {
  for (const WeightTensor& t : model.layer_kinds[0].weights) {
    if (t.name == name) return t;
  }
  FAIL("no tensor " << name);
  return {};
}

std::string config_path(const Published& p) {
  return shared_folder() + "/data/hf_configs/" + p.config + "_config.json";
}

// A config in a file of its own, so that errors have a place.
class TemporaryConfig {
 public:
  explicit TemporaryConfig(const std::string& text) { REQUIRE(write_file_atomically(path_, text).ok()); }
  ~TemporaryConfig() { std::filesystem::remove(path_); }
  Result<ModelSpec> load(const std::string& quantization = "") const {
    return load_model(path_, ".", quantization, "auto");
  }

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "orrery_model_spec_test.json").string();
};

const char* const small_config = R"({
  "architectures": ["Qwen3ForCausalLM"],
  "hidden_size": 1024,
  "num_hidden_layers": 4,
  "num_attention_heads": 8,
  "num_key_value_heads": 2,
  "head_dim": 128,
  "intermediate_size": 2048,
  "vocab_size": 1000,
  "max_position_embeddings": 4096,
  "tie_word_embeddings": false,
  "torch_dtype": "bfloat16"
})";

std::string with(const std::string& field) {  // stands in line 2
  std::string text = small_config;
  return text.insert(2, "  " + field + ",\n");
}

std::string errors_of(const std::string& text) {
  const auto model = TemporaryConfig(text).load();
  REQUIRE_FALSE(model.ok());
  return to_string(model.errors());
}

bool holds(const std::string& text, const std::string& piece) {
  return text.find(piece) != std::string::npos;
}

}  // namespace

TEST_CASE("parameters and bytes are those that the makers publish") {
  for (const Published& p : published) {
    INFO(p.profile);
    const ModelSpec m = load(p.profile);
    CHECK(m.parameters() == p.parameters);
    CHECK(m.active_parameters() == p.active);
    const double bytes = p.weight_bytes > 0 ? p.weight_bytes : 2.0 * static_cast<double>(p.parameters);
    CHECK(m.weight_bytes().value() == Approx(bytes).epsilon(p.weight_bytes > 0 ? 1e-4 : 1e-12));
    std::int64_t layers = 0;
    for (const LayerKind& kind : m.layer_kinds) layers += kind.count;
    CHECK(layers == m.layers);
  }
}

// GLM-4.5's card says 355B and 106B, 32B and 12B active; ours leave out the layer that predicts further
// tokens.
TEST_CASE("GLM-4.5: first layers dense, a shared expert, a router in fp32") {
  const ModelSpec m = load("glm-4.5");
  CHECK(static_cast<double>(m.parameters()) == Approx(355e9).epsilon(0.01));
  CHECK(static_cast<double>(m.active_parameters()) == Approx(32e9).epsilon(0.06));
  REQUIRE(m.layer_kinds.size() == 2);
  CHECK(m.layer_kinds[0].count == 3);
  CHECK_FALSE(m.layer_kinds[0].moe);
  CHECK(m.qk_norm);
  CHECK(m.attention_bias);
  for (const WeightTensor& t : m.layer_kinds[1].weights) {
    if (t.name == "router") CHECK(t.dtype == DType::fp32);
    if (t.name == "shared_expert.up_proj") CHECK(t.rows == 1536);
  }
  const ModelSpec air = load("glm-4.5-air");
  CHECK(static_cast<double>(air.parameters()) == Approx(106e9).epsilon(0.01));
  CHECK(static_cast<double>(air.active_parameters()) == Approx(12e9).epsilon(0.15));
  CHECK_FALSE(air.qk_norm);
  // Qwen counts its decoder: 235B, 22B active.
  const ModelSpec vl = load("qwen3-vl-235b-a22b");
  CHECK(vl.parameters() - vl.vision->parameters() == 235'093'634'560);
  CHECK(vl.max_positions == 262144);
}

TEST_CASE("profiles say what the config.json says") {
  if (!has_shared("data/hf_configs")) return;
  for (const Published& p : published) {
    if (p.config == nullptr) continue;
    INFO(p.profile);
    const ModelSpec profile = load(p.profile), config = load(config_path(p));
    CHECK(profile.parameters() == config.parameters());
    CHECK(profile.weight_bytes() == config.weight_bytes());
    CHECK(profile.kv_bytes_per_token() == config.kv_bytes_per_token());
    CHECK(profile.max_positions == config.max_positions);
    CHECK(profile.architecture == config.architecture);
    CHECK(profile.quantization == config.quantization);
    CHECK(profile.activation_dtype == config.activation_dtype);
    CHECK(profile.layer_kinds.size() == config.layer_kinds.size());
    CHECK(config.name == p.config);
  }
}

TEST_CASE("no shipped profile is left out") {
  CHECK(profile_names("model_profiles").size() >= published.size());
  for (const std::string& name : profile_names("model_profiles")) {
    INFO(name);
    CHECK(load_model(name, ".", "", "auto").ok());
  }
}

TEST_CASE("gpt-oss alternates sliding and full layers and quantises its experts only") {
  const ModelSpec m = load("gpt-oss-20b");
  REQUIRE(m.layer_kinds.size() == 2);
  CHECK(m.layer_kinds[0].sliding_window == 128);
  CHECK(m.layer_kinds[0].count == 12);
  CHECK(m.layer_kinds[1].sliding_window == 0);
  CHECK(m.attention_sinks);
  for (const WeightTensor& t : m.layer_kinds[0].weights) {
    const bool expert = t.name == "experts.gate_up" || t.name == "experts.down";
    CHECK((t.dtype == DType::mxfp4) == expert);
  }
}

TEST_CASE("quantisation: scales count, norms and the router stay") {
  const ModelSpec bf16 = load("qwen3-30b-a3b"), block = load("qwen3-30b-a3b", "fp8-block");
  CHECK(block.quantization == Quantization::fp8_block);
  CHECK(block.parameters() == bf16.parameters());
  CHECK(block.weight_bytes() == load("qwen3-30b-a3b-fp8").weight_bytes());
  // 1536 x 2048 in 128 x 128 blocks: 12 · 16 scales of 4 bytes.
  const WeightTensor experts = tensor(block, "experts.gate_up");
  CHECK(experts.dtype == DType::fp8);
  CHECK(experts.scales.value() == 768);
  CHECK(experts.bytes().value() == 128.0 * (1536.0 * 2048 + 768));
  CHECK(tensor(block, "router").dtype == DType::bf16);
  CHECK(tensor(block, "input_norm").dtype == DType::bf16);
  for (const WeightTensor& t : block.global_weights) CHECK(t.dtype == DType::bf16);
  CHECK(load("qwen3-30b-a3b-fp8", "bf16").weight_bytes() == bf16.weight_bytes());
  const double gate = 12288.0 * 4096;
  for (const auto& [name, bytes] : {std::pair{"fp8-tensor", gate + 4},
                                    {"fp8-channel", gate + 4 * 12288},
                                    {"w4a16", gate / 2 + gate / 128 * 2},
                                    {"mxfp4", gate * 0.53125}}) {
    INFO(name);
    CHECK(tensor(load("qwen3-8b", name), "gate_proj").bytes().value() == bytes);
  }
}

TEST_CASE("KV cache types") {
  CHECK(load("qwen3-8b").kv_bytes_per_token().value() == 2 * 36 * 8 * 128 * 2);
  CHECK(load("qwen3-8b", "", "fp8").kv_bytes_per_token().value() == 2 * 36 * 8 * 128);
  CHECK(load("llama-2-70b").kv_dtype == DType::fp16);
  const auto wrong = load_model("qwen3-8b", ".", "", "fp9");
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.errors()[0].key == "kv_cache_dtype");
}

TEST_CASE("unknown names list what there is") {
  const auto model = load_model("qwen3-8", ".", "", "auto");
  REQUIRE_FALSE(model.ok());
  CHECK(holds(model.errors()[0].message, "did you mean \"qwen3-8b\""));
  CHECK(holds(model.errors()[0].message, "config.json"));
  const auto scheme = load_model("qwen3-8b", ".", "fp8-blok", "auto");
  REQUIRE_FALSE(scheme.ok());
  CHECK(holds(scheme.errors()[0].message, "did you mean \"fp8-block\""));
  CHECK_FALSE(load_model("./no/such/config.json", ".", "", "auto").ok());
}

TEST_CASE("a small config by hand") {
  const auto model = TemporaryConfig(small_config).load();
  REQUIRE(model.ok());
  // 4 layers of (8 + 2·2)·128·1024 + 1024·1024 + 3·2048·1024 + 2·1024 + 2·128, and 2·1000·1024 + 1024
  CHECK(model->parameters() ==
        4 * (12 * 128 * 1024 + 1024 * 1024 + 3 * 2048 * 1024 + 2048 + 256) + 2 * 1000 * 1024 + 1024);
}

TEST_CASE("a field that changes shapes and is not understood is refused where it stands") {
  for (
      const auto& [field, piece] :
      {std::pair{R"("kv_lora_rank": 512)", "field \"kv_lora_rank\" is not understood"},
       {R"("vision_config": {"depth": 3})", "field \"vision_config\" is not understood"},
       {R"("num_experts": 8)", "field \"num_experts\" is not understood"},
       {R"("hidden_act": "gelu")", "supported: silu"},
       {R"("sliding_window": 4096)", "of some layers is not supported in Qwen3ForCausalLM"},
       {R"("sliding_window": 4096, "max_window_layers": 2)", "max_window_layers: 0"},
       {R"("sliding_window": 1, "max_window_layers": 0)", "sliding_window"},
       {R"("layer_types": ["linear_attention"])", "linear_attention"},
       {R"("num_nextn_predict_layers": -1)", "num_nextn_predict_layers"},
       {R"("rope_scaling": {"rope_type": "mrope"})", "rope scaling \"mrope\" is not supported"},
       {R"("torch_dtype": "float8")", "torch_dtype"},
       {R"("quantization_config": {"quant_method": "awq"})", "quantisation method \"awq\" is not supported"},
       {R"("quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 64]})", "square blocks"},
       {R"("quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mixer"]})",
        "model.layers.0.mixer"},
       {R"("quantization_config": {"quant_method": "fp8", "bits": 8})", "quantization_config.bits"}}) {
    INFO(field);
    const std::string errors = errors_of(with(field));
    CHECK(holds(errors, piece));
    CHECK(holds(errors, ".json:2:"));
  }
}

TEST_CASE("harmless fields and inactive features pass") {
  for (const char* field :
       {R"("rms_norm_eps": 1e-06)", R"("sliding_window": null)",
        R"("sliding_window": 4096, "use_sliding_window": false)", R"("use_qk_norm": true)",
        R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0})",
        R"("layer_types": ["full_attention", "full_attention"])"}) {
    INFO(field);
    CHECK(TemporaryConfig(with(field)).load().ok());
  }
}

TEST_CASE("windows of dense models: of all layers, or of those that the config lists") {
  const ModelSpec mistral = load("mistral-7b-v0.1");
  REQUIRE(mistral.layer_kinds.size() == 1);
  CHECK(mistral.layer_kinds[0].sliding_window == 4096);
  CHECK(mistral.layer_kinds[0].count == 32);
  const auto qwen = TemporaryConfig(with(R"("sliding_window": 512, "max_window_layers": 0)")).load();
  REQUIRE(qwen.ok());
  CHECK(qwen->layer_kinds[0].sliding_window == 512);
  const auto as_mistral = [](const std::string& field) {
    std::string text = with(field);
    return text.replace(text.find("Qwen3For"), 8, "MistralFor");
  };
  const std::string mixed =
      R"("full_attention", "sliding_attention", "sliding_attention", "sliding_attention")";
  const auto listed =
      TemporaryConfig(as_mistral(R"("sliding_window": 64, "layer_types": [)" + mixed + "]")).load();
  REQUIRE(listed.ok());
  REQUIRE(listed->layer_kinds.size() == 2);
  CHECK(listed->layer_kinds[0].sliding_window == 0);
  CHECK(listed->layer_kinds[0].count == 1);
  CHECK(listed->layer_kinds[1].sliding_window == 64);
  const std::string full = R"("full_attention", "full_attention", "full_attention", "full_attention")";
  CHECK(holds(errors_of(as_mistral(R"("sliding_window": 64, "layer_types": [)" + full + "]")),
              "gives to every layer"));
  CHECK(TemporaryConfig(as_mistral(R"("sliding_window": 0)")).load()->layer_kinds[0].sliding_window == 0);
}

TEST_CASE("other architectures, and configs that contradict themselves") {
  std::string text = small_config;
  text.replace(text.find("Qwen3ForCausalLM"), 16, "DeepseekV4ForCausalLM");
  const std::string errors = errors_of(text);
  CHECK(holds(errors, ".json:2:21: architectures[0]"));
  CHECK(holds(errors, "Qwen3MoeForCausalLM"));
  text = small_config;
  text.replace(text.find("\"num_key_value_heads\": 2"), 24, "\"num_key_value_heads\": 3");
  CHECK(holds(errors_of(text), "does not divide num_attention_heads"));
  text = small_config;
  text.replace(text.find("\"hidden_size\": 1024"), 19, "\"hidden_size\": -4");
  CHECK(holds(errors_of(text), ".json:3:18: hidden_size"));
  text = small_config;
  text.erase(text.find("  \"vocab_size\": 1000,\n"), 22);
  CHECK(holds(errors_of(text), "vocab_size: the key is missing"));
  CHECK(holds(errors_of(with(R"("hidden_size": 5)")), "duplicate key"));
  CHECK(holds(errors_of("[1, 2]"), ".json:1:1"));
}

TEST_CASE("context lengths with rope scaling") {
  const auto positions = [](const std::string& field) {
    return TemporaryConfig(with(field)).load().value().max_positions;
  };
  CHECK(
      positions(
          R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048})") ==
      8192);
  CHECK(positions(R"("rope_scaling": {"type": "linear", "factor": 2.0})") == 8192);
  CHECK(positions(R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0})") == 4096);
}

TEST_CASE("modules left unquantised are read per kind of layer") {
  const std::string head = R"("quantization_config": {"quant_method": "fp8", "modules_to_not_convert": )";
  const auto dtype = [&](const std::string& list, const std::string& name) {
    const ModelSpec m = TemporaryConfig(with(head + list + "}")).load().value();
    return tensor(m, name).dtype;
  };
  CHECK(dtype(R"(["lm_head"])", "o_proj") == DType::fp8);
  CHECK(dtype(R"(["model.layers.*.self_attn"])", "o_proj") == DType::bf16);
  CHECK(dtype(R"(["model.layers.*.self_attn"])", "down_proj") == DType::fp8);
  CHECK(dtype(R"(["re:.*mlp.down_proj$"])", "down_proj") == DType::bf16);
  // Layers that differ among themselves.
  const std::string some = errors_of(with(head + R"(["model.layers.0.self_attn.o_proj"]})"));
  CHECK(holds(some, "in some layers only"));
}

TEST_CASE("weights quantised by a file beside the config are not taken for bf16") {
  if (!has_shared("data/hf_configs/nvidia--Llama-3.1-70B-Instruct-FP8_config.json")) return;
  const std::string path =
      shared_folder() + "/data/hf_configs/nvidia--Llama-3.1-70B-Instruct-FP8_config.json";
  const auto silent = load_model(path, ".", "", "auto");
  REQUIRE_FALSE(silent.ok());
  CHECK(holds(silent.errors()[0].message, "deployment.quantization"));
  CHECK(load_model(path, ".", "fp8-tensor", "auto").ok());
}

TEST_CASE("configs outside the supported family are refused, never misread") {
  if (!has_shared("data/hf_configs")) return;
  const std::array supported = {"LlamaForCausalLM",
                                "MistralForCausalLM",
                                "MiMoForCausalLM",
                                "Qwen2ForCausalLM",
                                "Qwen3ForCausalLM",
                                "Qwen3MoeForCausalLM",
                                "MixtralForCausalLM",
                                "GptOssForCausalLM",
                                "DeepseekV2ForCausalLM",
                                "DeepseekV3ForCausalLM",
                                "DeepseekV32ForCausalLM",
                                "GlmMoeDsaForCausalLM",
                                "MiniMaxM2ForCausalLM",
                                "NemotronHForCausalLM",
                                "Qwen3_5ForConditionalGeneration",
                                "Qwen3_5MoeForConditionalGeneration",
                                "Qwen3VLForConditionalGeneration",
                                "Qwen3VLMoeForConditionalGeneration"};
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(shared_folder() + "/data/hf_configs")) {
    if (!entry.path().string().ends_with("_config.json")) continue;
    const auto model = load_model(entry.path().string(), ".", "", "auto");
    INFO(entry.path().string());
    ++read;
    if (model.ok()) {
      CHECK(std::find(supported.begin(), supported.end(), model->architecture) != supported.end());
    } else {
      CHECK(model.errors()[0].where.line > 0);
    }
  }
  CHECK(read > 50);
}
