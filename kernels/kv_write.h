// New keys and values into the paged cache, keys and values apart: [blocks][block_size][kv_heads · head_dim],
// or vectorised (paged_kv.h). The slot of a token is block · block_size + place in the block.
#pragma once

#include <cstdint>

#include "kernels/paged_kv.h"

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
  KvLayout layout = KvLayout::plain;
  std::int32_t block_size = 0, head_dim = 0;  // of a vectorised cache: multiples of 16
};

void launch_kv_write(const KvWriteLaunch& launch, void* stream);

}  // namespace orrery::kernels
