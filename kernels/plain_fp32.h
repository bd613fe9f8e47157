// A transformer layer's operators in fp32, a thread an output: for checks of a forward pass, which must give
// a reference's tokens to the last one. Nothing here is fast, and nothing is priced.
#pragma once

#include <cstdint>

#include "kernels/paged_kv.h"

namespace orrery::kernels {

// residual_out = x + residual; out = its RMSNorm.
struct PlainNorm {
  const float *x = nullptr, *residual = nullptr, *weight = nullptr;
  float *residual_out = nullptr, *out = nullptr;
  std::int32_t rows = 0, columns = 0;
  float epsilon = 1e-6F;
};
void plain_norm(const PlainNorm& launch, void* stream);

// out[rows][n] = in[rows][k] · weights[n][k]ᵀ.
struct PlainProduct {
  const float *in = nullptr, *weights = nullptr;
  float* out = nullptr;
  std::int32_t rows = 0, n = 0, k = 0;
};
void plain_product(const PlainProduct& launch, void* stream);

// Norm (where there are weights) and rotary embedding of q and k, k and v into the paged cache: as
// qk_norm_rotary_kv.h.
struct PlainHeads {
  const float *qkv = nullptr, *q_weight = nullptr, *k_weight = nullptr, *cos_sin = nullptr;
  float *queries = nullptr, *keys = nullptr, *values = nullptr;  // cache: [slots][kv_heads][head_dim]
  const std::int64_t *positions = nullptr, *slots = nullptr;     // a negative slot is not written
  std::int32_t rows = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float epsilon = 1e-6F;
};
void plain_heads(const PlainHeads& launch, void* stream);

// Every row attends to the tokens of its table up to its own position.
struct PlainAttention {
  const float *queries = nullptr, *keys = nullptr, *values = nullptr;
  float* out = nullptr;
  const std::int64_t* positions = nullptr;
  const std::int32_t *tables = nullptr, *table_of_row = nullptr;
  std::int64_t table_stride = 0;
  std::int32_t rows = 0, heads = 0, kv_heads = 0, head_dim = 0;  // a multiple of 8
  float softmax_scale = 1;
};
void plain_attention(const PlainAttention& launch, void* stream);

// out[i] = silu(gate[i]) · up[i]; a row holds its gates, then its ups.
struct PlainGate {
  const float* gate_up = nullptr;
  float* out = nullptr;
  std::int32_t rows = 0, columns = 0;
};
void plain_gate(const PlainGate& launch, void* stream);

}  // namespace orrery::kernels
