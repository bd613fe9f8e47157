// A model as shapes: layers, heads, every weight tensor with its dtype. Built from a Hugging Face
// config.json; anything in it that Orrery does not understand is a located error naming the field.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/hardware.h"
#include "costmodel/state_layers.h"
#include "costmodel/vision_spec.h"

namespace orrery {

enum class Quantization : std::uint8_t { none, fp8_block, fp8_tensor, fp8_channel, w4a8, w4a16, int4, mxfp4 };
const char* to_string(Quantization q);  // interfaces §3: bf16 | fp8-block | fp8-tensor | fp8-channel | …

// One weight matrix (or vector: columns = 1) as stored, before sharding.
struct WeightTensor {
  std::string name;          // "q_proj", "experts.gate_up", "lm_head", …
  std::int64_t rows = 0;     // output features
  std::int64_t columns = 0;  // input features
  std::int64_t copies = 1;   // per layer: number of experts
  bool per_layer = true;
  DType dtype = DType::bf16;
  Bytes scales;  // bytes of quantisation scales, one copy
  std::int64_t parameters() const { return rows * columns * copies; }
  Bytes bytes() const;  // one layer's, with scales, all copies
};

// Multi-head latent attention: the cache holds a latent and one rotary key, the same for all heads.
struct LatentAttention {
  std::int64_t query_rank = 0;  // 0 = queries are made in one product
  std::int64_t rank = 0;        // elements of the latent; 0 = the model has ordinary heads
  std::int64_t key_dim = 0, rotary_dim = 0, value_dim = 0;  // of a head: key without rotary part, …
  bool present() const { return rank > 0; }
};

// Sparse attention over a latent (DeepSeek-V3.2): an indexer with a key of its own in the cache scores all
// tokens, and attention reads the `top` of them. Its keys are 8 bits with an fp32 scale.
struct SparseAttention {
  std::int64_t heads = 0, dim = 0, top = 0;  // of the indexer; tokens that attention reads
  bool present() const { return top > 0; }
};

enum class Mixer : std::uint8_t { attention, state, none };

struct LayerKind {
  std::int64_t count = 0;  // how many layers are like this
  bool moe = false;
  Mixer mixer = Mixer::attention;   // what mixes the tokens; none: the layer is an MLP alone
  bool feeds_forward = true;        // false: the layer is its mixer alone (Nemotron-H)
  std::int64_t sliding_window = 0;  // tokens; 0 = full attention
  std::vector<WeightTensor> weights;
};

struct ModelSpec {
  std::string name;          // "qwen3-8b"
  std::string architecture;  // "Qwen3ForCausalLM"
  std::int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0,
               vocabulary = 0;
  std::int64_t experts = 0, experts_per_token = 0, expert_intermediate = 0, shared_expert_intermediate = 0;
  LatentAttention latent;  // if present: kv_heads = 1, head_dim = latent and rotary key
  SparseAttention sparse;  // only beside a latent
  StateLayers state;       // of layers whose mixer keeps a state
  // The router picks so many of these groups of experts first, by the scores of their best one or two; 0 = it
  // does not.
  std::int64_t expert_groups = 0, expert_groups_chosen = 0, expert_group_best = 2;
  bool qk_norm = false, attention_bias = false, tied_embeddings = false, attention_sinks = false;
  // Gemma: what attention and the MLP give is normed before it joins the residual, so four norms a layer.
  bool output_norms = false;
  bool gelu = false;  // GELU of the gate (tanh approximation) instead of SiLU
  bool attention_softcap = false, logit_softcap = false;  // scores, logits go through cap · tanh(x / cap)
  bool scaled_embedding = false;                          // embeddings are multiplied by √hidden
  bool router_fp32 = false;                               // GLM-4.5: the router multiplies in fp32
  bool output_gate = false;         // Qwen3-Next: attention's output times a sigmoid made with the queries
  bool shared_expert_gate = false;  // and the shared expert's times one of its own
  bool rotary = true;               // false: attention without positions (Nemotron-H)
  bool gated_mlp = true;            // false: one matrix up, ReLU², one down (Nemotron-H)
  std::int64_t max_positions = 0;
  // LongRoPE: context that vLLM gives when nobody asks for another; 0 = max_positions.
  std::int64_t original_positions = 0;
  std::int64_t mtp_layers = 0;  // for speculation only: loaded, counted and run only when it uses them
  DType activation_dtype = DType::bf16;
  Quantization quantization = Quantization::none;
  std::int64_t quantization_block = 128;  // block or group size
  DType kv_dtype = DType::bf16;
  std::vector<LayerKind> layer_kinds;        // counts sum to `layers`
  std::vector<std::uint8_t> kind_of_layer;   // index in layer_kinds; empty: the kinds follow one another
  std::vector<WeightTensor> global_weights;  // embedding, final norm, lm_head
  std::string source;                        // file it came from
  std::shared_ptr<const VisionSpec> vision;  // encoder of a multimodal model; null = text only

  std::int64_t parameters() const;  // all, embeddings and encoder included, tied counted once
  // Touched by one token, with all of the embedding and lm_head (as Qwen counts "3.3B activated"; OpenAI
  // leaves the embedding out).
  std::int64_t active_parameters() const;
  Bytes weight_bytes() const;             // as stored on one device without sharding
  Bytes kv_bytes_per_token() const;       // all layers that keep tokens, all KV heads, without a state
  std::int64_t attention_layers() const;  // layers that keep tokens
  std::int64_t state_layers() const;
  // Bytes of a token in one layer of one of `tp` ranks: keys and values, an indexer's key included.
  double kv_layer_bytes(std::int64_t tp) const;
  // Elements that one of `tp` ranks keeps of a token in one layer. Heads are shared out, at least one a rank;
  // a latent is kept whole by every rank.
  std::int64_t kv_elements(std::int64_t tp) const {
    if (latent.present()) return latent.rank + latent.rotary_dim;
    return 2 * (kv_heads > tp ? kv_heads / tp : 1) * head_dim;
  }
};
// `best`: experts whose scores make a group's.
inline void choose_groups(ModelSpec& model, std::int64_t groups, std::int64_t chosen, std::size_t best) {
  model.expert_groups = groups;
  model.expert_groups_chosen = chosen;
  model.expert_group_best = static_cast<std::int64_t>(best);
}

// Whether `engine` attends to the later tokens of the same image (Gemma 3 with its encoder): vLLM 0.24 then
// runs Triton attention in every layer and step, because its FlashAttention of Hopper cannot
// (v1/attention/backends/flash_attn.py, supports_combination; model_arch_config_convertor.py,
// is_mm_prefix_lm), and keeps an image in one chunk (platforms/cuda.py).
struct EngineProfile;
bool serves_image_prefixes(const ModelSpec& model, const EngineProfile& engine);

// `quantization`: "" = what the config says. Path to a config.json, or the name of a profile in
// model_profiles/.
Result<ModelSpec> load_model(const std::string& name_or_path, const std::string& folder,
                             const std::string& quantization, const std::string& kv_cache_dtype);

}  // namespace orrery
