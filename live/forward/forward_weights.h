// The weights of a model as the forward pass multiplies with them: of the model's sizes, random from a seed.
// Deviations are 1/√(features in), so that activations of deviation 1 give such.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "costmodel/model_spec.h"
#include "kernels/kernel_case.h"
#include "kernels/mla_decode.h"

namespace orrery {

// What the forward pass needs to know of a model.
struct ForwardShape {
  std::int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0,
               vocabulary = 0;
  std::int64_t experts = 0, experts_per_token = 0, expert_intermediate = 0;  // 0: MLPs only
  std::int64_t shared_intermediate = 0;                                      // of shared experts; 0: none
  std::vector<bool> experts_of_layer;  // [layers]: whether a layer has them
  std::int64_t latent_plain = 0;       // latent attention: width of a query's head without its rotary part
  std::int64_t latent_value = 0;       // and of a head's value; 0: ordinary attention
  bool qk_norm = false, tied = false;
  // Heads, MLPs, the vocabulary and shared experts' widths are one rank's shares; of the routed experts
  // either the widths are, or each rank has some of them whole.
  std::int32_t ranks = 1, rank = 0;
  bool shares_experts = false;
  std::int64_t own_experts() const { return shares_experts ? experts / ranks : experts; }
  std::int64_t first_expert() const { return shares_experts ? rank * own_experts() : 0; }
  bool fp8 = false;  // weights of products e4m3 with a scale for each 128 × 128, but the router's and lm_head
  bool latent() const { return latent_plain > 0; }
  std::int64_t q_width() const {
    return heads * (latent() ? latent_plain + kernels::latent_rotary : head_dim);
  }
  std::int64_t attended_width() const { return latent() ? heads * latent_value : q_width(); }
  // Elements of a token in the cache of keys, and in that of values where there is one.
  std::int64_t kv_width() const { return latent() ? kernels::latent_key : kv_heads * head_dim; }
  std::int64_t qkv_width() const { return latent() ? 0 : q_width() + 2 * kv_width(); }
  std::int64_t whole_vocabulary() const { return vocabulary * ranks; }
  std::int64_t mlp_width() const {  // the widest MLP
    return intermediate > shared_intermediate ? intermediate : shared_intermediate;
  }
};

// One rank's share. Errors name every feature of the model that there is no code for, and what does not
// divide.
Result<ForwardShape> forward_shape(const ModelSpec& model, std::int32_t ranks = 1, std::int32_t rank = 0,
                                   bool shares_experts = false);

// [experts][n][k], row-major: a row is a feature out. bf16, or e4m3 with scales [experts][⌈n/128⌉][⌈k/128⌉].
struct Weight {
  void* data = nullptr;
  std::int64_t n = 0, k = 0, experts = 1;
  float* scales = nullptr;  // null: bf16
  bool fp8() const { return scales != nullptr; }
  // Of one expert, with its scales.
  double bytes() const;
};

struct LayerWeights {
  std::uint16_t *input_norm = nullptr, *post_norm = nullptr;
  std::uint16_t *q_norm = nullptr, *k_norm = nullptr;  // null: heads are not normed
  Weight qkv, o, gate_up, down;                        // the last two of every expert where there are experts
  Weight router;                                       // no data: the layer has no experts
  Weight shared_gate_up, shared_down;
  // Latent attention: queries, the latent with its rotary key, and of each head (as of an expert) into the
  // latent's space and out of it. `qkv` has no data then.
  Weight q, kv_a, into_latent, out_of_latent;
  std::uint16_t* latent_norm = nullptr;
};

struct ForwardWeights {
  Weight embedding, head;  // the same memory where the model ties them
  std::uint16_t* final_norm = nullptr;
  std::vector<LayerWeights> layers;
};

constexpr float norm_epsilon = 1e-6F;
// Base of the rotary frequencies. A model's own changes no time and no byte.
constexpr double rotary_base = 1e6;

// `head_spread`: rows of lm_head are exp(spread · normal) times as large.
Result<ForwardWeights> make_weights(const ForwardShape& shape, std::uint64_t seed, float head_spread,
                                    kernels::DeviceMemory& memory);
// positions × head_dim: the cosines of a position, then its sines. Null when there is no room.
const float* make_rotary_table(std::int64_t positions, std::int64_t head_dim, kernels::DeviceMemory& memory);

}  // namespace orrery
