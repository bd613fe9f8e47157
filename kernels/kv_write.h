// New keys and values into the paged cache. A cache is [blocks][block_size][kv_heads · head_dim], keys and
// values apart; the slot of a token is block · block_size + place in the block.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct KvWriteLaunch {
  const std::uint16_t* keys = nullptr;    // bf16, tokens × width
  const std::uint16_t* values = nullptr;  // bf16, tokens × width
  const std::int64_t* slots = nullptr;    // one a token; negative: not written (padding of a captured graph)
  void* key_cache = nullptr;              // slots × width, bf16 or fp8 (e4m3 in the device's format)
  void* value_cache = nullptr;
  std::int64_t in_stride = 0;  // elements between tokens in keys and values; multiple of 8
  std::int32_t tokens = 0;
  std::int32_t width = 0;  // kv_heads · head_dim; multiple of 8
  bool fp8 = false;        // then x / scale is stored, saturating
  float key_scale = 1, value_scale = 1;
};

void launch_kv_write(const KvWriteLaunch& launch, void* stream);

}  // namespace orrery::kernels
