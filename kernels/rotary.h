// Rotary embedding of q and k (NeoX: element i turns with element i + d/2), with an RMSNorm of each head
// before it where the model has one (Qwen3). v passes by untouched and is not copied. In fp32, rounded once
// to bf16.
//   h = x / √(mean(x²) + ε) · weight          (per head; skipped without weights)
//   out[i]       = h[i] · cos[i] − h[i + d/2] · sin[i]
//   out[i + d/2] = h[i + d/2] · cos[i] + h[i] · sin[i]      for i < d/2
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct RotaryLaunch {
  const std::uint16_t* qkv = nullptr;       // bf16; a token's q heads, then k heads (then v heads)
  std::uint16_t* out = nullptr;             // q heads, then k heads; may be qkv
  std::uint16_t* k_out = nullptr;           // k heads go there, with the stride of qkv; null: behind q's
  const std::uint16_t* q_weight = nullptr;  // bf16, head_dim; null: no norm
  const std::uint16_t* k_weight = nullptr;
  const std::int64_t* positions = nullptr;  // one a token
  const float* cos_sin = nullptr;           // positions × head_dim: d/2 cosines, then d/2 sines
  std::int64_t in_stride = 0;               // elements between tokens; multiples of 8
  std::int64_t out_stride = 0;
  std::int32_t tokens = 0;
  std::int32_t heads = 0, kv_heads = 0;
  std::int32_t head_dim = 128;  // 64, 128 or 256
  float epsilon = 1e-6F;
};

void launch_rotary(const RotaryLaunch& launch, void* stream);

}  // namespace orrery::kernels
