// A KV cache in blocks of 16 tokens, as the attention kernels read it.
#pragma once

#include <cstdint>

namespace orrery::kernels {

constexpr std::int32_t kv_block_tokens = 16;

// How a block lies in memory. `plain`: keys and values alike, [blocks][16 tokens][kv_heads][head_dim].
// `vectorised`: keys [blocks][kv_heads][head_dim / x][16][x], values [blocks][kv_heads][16 / x][head_dim][x]
// with x elements in 16 bytes, as AITER's decode kernels take them (case C1): what a lane multiplies with is
// one load, of values too.
enum class KvLayout : std::uint8_t { plain, vectorised };

struct PagedKv {
  const void* keys = nullptr;
  const void* values = nullptr;
  const std::int32_t* block_table = nullptr;  // device, [sequences][table_stride]: block of tokens 16 i, …
  std::int64_t table_stride = 0;
  float key_scale = 1, value_scale = 1;  // of fp8: what is stored · scale is meant
  std::int64_t blocks = 0;               // in the pool
  KvLayout layout = KvLayout::plain;
};

}  // namespace orrery::kernels
