// What stands between the projection of q, k and v and attention, in one launch: RMSNorm of each head of q
// and k (where the model has it), rotary embedding of both, and k and v into the paged cache, quantised where
// the cache is fp8. Heads are normed and turned as in rotary.h, the cache is laid out as in kv_write.h. In
// fp32, rounded once: apart, k is rounded to bf16 before it is quantised.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct QkNormRotaryKvLaunch {
  const std::uint16_t* qkv = nullptr;       // bf16; a token's q heads, k heads, v heads
  std::uint16_t* queries = nullptr;         // bf16, tokens × heads × head_dim; may be qkv with its stride
  const std::uint16_t* q_weight = nullptr;  // bf16, head_dim; null: no norm
  const std::uint16_t* k_weight = nullptr;
  const std::int64_t* positions = nullptr;  // one a token
  const float* cos_sin = nullptr;           // positions × head_dim: d/2 cosines, then d/2 sines
  const std::int64_t* slots = nullptr;      // one a token; negative: k and v are not written
  void* key_cache = nullptr;                // slots × kv_heads · head_dim, bf16 or fp8
  void* value_cache = nullptr;
  std::int64_t in_stride = 0;  // elements between tokens; multiples of 8
  std::int64_t out_stride = 0;
  std::int32_t tokens = 0;
  std::int32_t heads = 0, kv_heads = 0;
  std::int32_t head_dim = 128;  // 64, 128 or 256
  bool fp8 = false;             // of the cache: then x / scale is stored, saturating
  float key_scale = 1, value_scale = 1;
  float epsilon = 1e-6F;
};

void launch_qk_norm_rotary_kv(const QkNormRotaryKvLaunch& launch, void* stream);

}  // namespace orrery::kernels
