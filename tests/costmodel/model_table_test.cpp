// Models that users ask for by name: parameters, those that a token touches, cache of a token, state of a
// sequence, from our profiles and from the published config.json; and what is refused, by the field.
#include <algorithm>
#include <array>
#include <string>

#include "catch.h"
#include "costmodel/instance_spec.h"
#include "costmodel/model_spec.h"
#include "priced_steps.h"
#include "read_instance.h"
#include "shared_data.h"

using namespace orrery;

namespace {

struct Row {
  const char* profile;  // ours; null = the config only
  const char* config;   // file in ../shared/data/hf_configs; null = there is none
  // Sums over the matrices, without the layer that predicts further tokens and without an encoder; what the
  // model card says, in billions, and how far off it may be.
  std::int64_t parameters, active;
  double card, card_active, slack;
  double kv;  // bytes of a token at bf16, all layers, one GPU
};

// Cards: DeepSeek-V3 671B-A37B; MiniMax-M2.5 230B-A10B; V3.2 is V3 with an indexer; Kimi-K2 1T-A32B; GLM-5
// 744B-A40B; Qwen3-Next 80B-A3B (with its MTP layer 81,324,862,720, the safetensors total); Nemotron 3
// Nano 31.6B, 3.2B active and 3.6B with embeddings (here); Nemotron-H 56B.
const std::array rows{
    Row{"deepseek-v3", "deepseek-ai--DeepSeek-V3", 671'026'419'200, 37'552'297'472, 671, 37, 0.02, 70'272},
    Row{"deepseek-r1", "deepseek-ai--DeepSeek-R1", 671'026'419'200, 37'552'297'472, 671, 37, 0.02, 70'272},
    Row{"deepseek-v3.2", "deepseek-ai--DeepSeek-V3.2", 671'877'944'064, 38'403'822'336, 671, 37, 0.04,
        61 * (1152 + 132)},
    Row{"kimi-k2", "moonshotai--Kimi-K2-Instruct", 1'026'408'232'448, 32'861'500'928, 1000, 32, 0.03, 70'272},
    Row{"kimi-k2.5", "moonshotai--Kimi-K2.5", 1'026'408'232'448, 32'861'500'928, 1000, 32, 0.03, 70'272},
    Row{"glm-5", "zai-org--GLM-5", 743'911'218'432, 41'784'728'832, 744, 40, 0.05, 78 * (1152 + 132)},
    Row{"qwen3-235b-a22b", "Qwen--Qwen3-235B-A22B", 235'093'634'560, 22'190'763'520, 235, 22, 0.01,
        94 * 2 * 4 * 128 * 2},
    Row{"qwen3-vl-235b-a22b", "Qwen--Qwen3-VL-235B-A22B-Instruct", 235'093'634'560, 22'190'763'520, 235, 22,
        0.01, 94 * 2 * 4 * 128 * 2},
    Row{"llama-3.1-405b", "meta-llama--Meta-Llama-3.1-405B", 405'853'388'800, 405'853'388'800, 405, 405,
        0.003, 126 * 2 * 8 * 128 * 2},
    Row{"gpt-oss-120b", "openai--gpt-oss-120b", 116'829'156'672, 5'711'982'912, 117, 5.1, 0.13,
        36 * 2 * 8 * 64 * 2},
    Row{"minimax-m2.5", "MiniMaxAI--MiniMax-M2.5", 228'689'764'864, 11'030'553'088, 230, 10, 0.11,
        62 * 2 * 8 * 128 * 2},
    Row{"qwen3-next-80b-a3b", nullptr, 79'674'391'296, 3'874'929'408, 80, 3.9, 0.02, 12 * 2 * 2 * 256 * 2},
    Row{"qwen3.5-35b-a3b", "Qwen--Qwen3.5-35B-A3B", 34'660'610'688, 3'454'988'928, 35, 3.5, 0.02,
        10 * 2 * 2 * 256 * 2},
    Row{"qwen3.5-122b-a10b", "Qwen--Qwen3.5-122B-A10B", 122'111'526'912, 9'771'288'576, 122, 10, 0.03,
        12 * 2 * 2 * 256 * 2},
    Row{"qwen3.5-397b-a17b", "Qwen--Qwen3.5-397B-A17B", 396'346'350'336, 17'349'040'896, 397, 17, 0.03,
        15 * 2 * 2 * 256 * 2},
    Row{"qwen3.5-27b", "Qwen--Qwen3.5-27B", 26'895'998'464, 26'895'998'464, 27, 27, 0.01,
        16 * 2 * 4 * 256 * 2},
    Row{"nemotron-3-nano-30b-a3b", "nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31'577'940'288,
        3'580'076'352, 31.6, 3.6, 0.01, 6 * 2 * 2 * 128 * 2},
    Row{"nemotron-h-56b", "nvidia--Nemotron-H-56B-Base-8K", 56'324'350'464, 56'324'350'464, 56, 56, 0.01,
        10 * 2 * 8 * 128 * 2},
};

std::string config_path(const std::string& name) {
  return shared_folder() + "/data/hf_configs/" + name + "_config.json";
}

void check(const Row& row, const ModelSpec& m) {
  const std::int64_t encoder = m.vision == nullptr ? 0 : m.vision->parameters();
  CHECK(m.parameters() - encoder == row.parameters);
  CHECK(m.active_parameters() == row.active);
  CHECK(static_cast<double>(row.parameters) / 1e9 == Approx(row.card).epsilon(std::max(row.slack, 0.03)));
  CHECK(static_cast<double>(row.active) / 1e9 == Approx(row.card_active).epsilon(row.slack));
  CHECK(m.kv_bytes_per_token().value() == row.kv);
}

}  // namespace

TEST_CASE("models by name: parameters, active ones, bytes of a token") {
  for (const Row& row : rows) {
    INFO(row.profile);
    const auto model = load_model(row.profile, ".", "", "bf16");
    if (!model.ok()) FAIL(to_string(model.errors()));
    check(row, model.value());
  }
}

TEST_CASE("the published config.json resolves to the same, and the profile says what it says") {
  if (!has_shared("data/hf_configs")) return;
  for (const Row& row : rows) {
    if (row.config == nullptr) continue;
    INFO(row.config);
    const auto config = load_model(config_path(row.config), ".", "", "bf16");
    if (!config.ok()) FAIL(to_string(config.errors()));
    check(row, config.value());
    const ModelSpec profile = load_model(row.profile, ".", "", "bf16").value();
    CHECK(profile.weight_bytes() == config->weight_bytes());
    CHECK(profile.max_positions == config->max_positions);
    CHECK(profile.quantization == config->quantization);
    CHECK(profile.layer_kinds.size() == config->layer_kinds.size());
    CHECK(profile.kind_of_layer == config->kind_of_layer);
    CHECK(profile.state.bytes(1, DType::bf16) == config->state.bytes(1, DType::bf16));
  }
}

// DeepSeek-V3's own README counts 0.9B of embedding and 0.9B of head in its 36.7B + 0.9B.
TEST_CASE("DeepSeek-V3: 36.6 B with the head and without the embedding") {
  const ModelSpec v3 = load_model("deepseek-v3", ".", "", "auto").value();
  const std::int64_t embedding = std::int64_t{129280} * 7168;
  CHECK(v3.active_parameters() - embedding == 36'625'618'432);
  // 36.5 B is the same without the 58 routers.
  CHECK(static_cast<double>(v3.active_parameters() - embedding - 58 * std::int64_t{256} * 7168) / 1e9 ==
        Approx(36.5).epsilon(0.001));
}

TEST_CASE("what is not modelled is refused by the field that says so") {
  if (!has_shared("data/hf_configs")) return;
  struct Refused {
    const char* config;
    const char* piece;
  };
  for (const Refused& r :
       {Refused{"deepseek-ai--DeepSeek-V4-Flash", "architectures"},
        Refused{"zai-org--GLM-5.2", "index_topk_freq"}, Refused{"MiniMaxAI--MiniMax-M3", "architectures"},
        Refused{"meta-llama--Llama-4-Scout-17B-16E-Instruct", "Llama4ForConditionalGeneration"},
        Refused{"XiaomiMiMo--MiMo-V2-Flash", "MiMoV2FlashForCausalLM"},
        Refused{"google--gemma-4-26B-A4B", "architectures"}, Refused{"moonshotai--Kimi-K3", "architectures"},
        Refused{"nvidia--NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "moe_latent_size"},
        Refused{"nvidia--NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", "moe_latent_size"}}) {
    INFO(r.config);
    const auto model = load_model(config_path(r.config), ".", "bf16", "auto");
    REQUIRE_FALSE(model.ok());
    CHECK(to_string(model.errors()).find(r.piece) != std::string::npos);
    CHECK_FALSE(model.errors()[0].where.file.empty());
  }
}

// One norm over all heads: ranks add up its sums of squares, which one GPU need not.
TEST_CASE("MiniMax-M2.5 norms whole queries and keys, and routes in fp32") {
  const auto counted = [](int tp) {
    Read r =
        read("hardware: h200\nmodel: minimax-m2.5\nengine: vllm-0.24\nparallel: {tp: " + std::to_string(tp) +
             "}\n");
    if (!r.errors.empty()) FAIL(to_string(r.errors));
    std::int64_t sums = 0;
    for (const OpLine& op : pricer(r.spec).explain(decodes(8, 1000)).ops)
      sums += op.name == "qk_norm_all_reduce" ? op.count : 0;
    return sums;
  };
  CHECK(counted(1) == 0);
  CHECK(counted(4) == 62);
  const ModelSpec m = load_model("minimax-m2.5", ".", "", "auto").value();
  CHECK(m.router_fp32);
  for (const WeightTensor& t : m.layer_kinds[0].weights) {
    if (t.name == "q_norm") CHECK(t.rows == 48 * 128);
    if (t.name == "router") CHECK(t.dtype == DType::fp32);
    if (t.name == "experts.down") CHECK(t.dtype == DType::fp8);
  }
  Read refused = read("hardware: h200\nmodel: minimax-m2.5\nengine: sglang-0.5\n");
  REQUIRE_FALSE(refused.errors.empty());
  CHECK(to_string(refused.errors).find("on vllm only") != std::string::npos);
}
