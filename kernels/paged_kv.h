// A KV cache in blocks of 16 tokens, as the attention kernels read it.
#pragma once

#include <cstdint>

namespace orrery::kernels {

constexpr std::int32_t kv_block_tokens = 16;

// Keys and values alike: [blocks][16 tokens][kv_heads][head_dim].
struct PagedKv {
  const void* keys = nullptr;
  const void* values = nullptr;
  const std::int32_t* block_table = nullptr;  // device, [sequences][table_stride]: block of tokens 16 i, …
  std::int64_t table_stride = 0;
  float key_scale = 1, value_scale = 1;  // of fp8: what is stored · scale is meant
  std::int64_t blocks = 0;               // in the pool
};

}  // namespace orrery::kernels
