// Prefill attention with Hopper's wgmma, after FlashAttention-3 without its overlap inside a warpgroup: two
// warpgroups of 64 query rows each, a third whose first two warps order copies of keys and of values, block
// of the cache by block, into a ring of two tiles of 128 tokens. One warpgroup's softmax runs beside the
// other's products.
//
// Keys and values of a head lie as up to three parts of 64 dimensions: rows of 128 bytes, 128-byte swizzle.
#include "kernels/attention_fragments.h"
#include "kernels/attention_prefill.h"
#include "kernels/attention_prefill_rows.h"
#include "kernels/tensor_map.h"
#include "kernels/wgmma.h"

namespace orrery::kernels {
namespace prefill_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

template <int KeyDim, int ValueDim>
struct Shape {
  static constexpr int key_dim = KeyDim, value_dim = ValueDim;
  static constexpr int tokens = 128, blocks = tokens / kv_block_tokens, groups = 2;
  static constexpr int threads = 128 * (groups + 1), stages = 2;
  static constexpr int part_bytes = tokens * 128;  // 64 dimensions of all tokens
  static constexpr int key_parts = KeyDim / 64, value_parts = ValueDim / 64;
  static constexpr int key_bytes = key_parts * part_bytes, value_bytes = value_parts * part_bytes;
  static constexpr int query_part_bytes = 64 * 128, query_bytes = key_parts * query_part_bytes;  // of a
                                                                                                 // warpgroup
  static constexpr int keys_offset = groups * query_bytes, values_offset = keys_offset + stages * key_bytes;
  static constexpr int barriers_offset = values_offset + stages * value_bytes;
  static constexpr int shared_bytes = barriers_offset + 8 * 4 * stages;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Barriers: filled and emptied, for keys (which = 0) and values (1), of each stage.
template <class S>
struct Ring {
  SharedAddress base;
  unsigned slot = 0, parity = 0;

  GPU_DEVICE_MEMBER explicit Ring(SharedAddress shared) : base(shared) {}
  GPU_DEVICE_MEMBER SharedAddress tile(unsigned which) const {
    return base +
           (which == 0 ? S::keys_offset + slot * S::key_bytes : S::values_offset + slot * S::value_bytes);
  }
  GPU_DEVICE_MEMBER SharedAddress filled(unsigned which) const {
    return base + S::barriers_offset + (2 * slot + which) * 16;
  }
  GPU_DEVICE_MEMBER SharedAddress emptied(unsigned which) const { return filled(which) + 8; }
  GPU_DEVICE_MEMBER void advance() {
    if (++slot == S::stages) {
      slot = 0;
      parity ^= 1U;
    }
  }
};

// By one warp: a lane for each block of 16 tokens and part of the head.
template <class S>
GPU_DEVICE void order_copies(const CUtensorMap* map, const PrefillRows& at, const std::int32_t* table,
                             unsigned which, Ring<S> ring) {
  const int lane = static_cast<int>(gpu_lane()), block = lane % S::blocks, part = lane / S::blocks;
  const int parts = which == 0 ? S::key_parts : S::value_parts;
  const int blocks = (at.tokens + kv_block_tokens - 1) / kv_block_tokens;
  for (int first = 0; first < blocks; first += S::blocks) {
    // Behind the last block any will do: scores there are masked and values cleared.
    const int number = table[first + block < blocks ? first + block : 0];
    if (lane == 0) {
      barrier_wait(ring.emptied(which), ring.parity ^ 1U);
      barrier_expect(ring.filled(which), static_cast<unsigned>(parts * S::part_bytes));
    }
    warp_sync();
    if (part < parts) {
      copy_box(ring.tile(which) + static_cast<unsigned>(part * S::part_bytes + block * kv_block_tokens * 128),
               map, part * 64, at.kv_head, number * kv_block_tokens, ring.filled(which));
    }
    ring.advance();
  }
}

// This warpgroup's 64 rows; what lies behind the last row is zero.
template <class S>
GPU_DEVICE void load_queries(const AttentionPrefill& p, const PrefillRows& at, int group, SharedAddress to) {
  constexpr int chunks = S::key_dim / 8;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries);
  for (int index = static_cast<int>(threadIdx.x) % 128; index < 64 * chunks; index += 128) {
    const int row = index / chunks, chunk = index % chunks;
    const bool valid = 64 * group + row < at.count;
    const std::uint16_t* from =
        queries + (valid ? at.index(p, 64 * group + row) * S::key_dim + chunk * 8 : 0);
    copy_async(to + static_cast<unsigned>(chunk / 8 * S::query_part_bytes) +
                   swizzled_128(static_cast<unsigned>(row), static_cast<unsigned>(chunk % 8)),
               from, valid);
  }
  copy_async_commit();
  copy_async_wait<0>();
  async_proxy_fence();
  meet(1 + group, 128);
}

using Scores = float[16][4];

template <class S>
GPU_DEVICE void multiply_keys(SharedAddress queries, SharedAddress keys, Scores& scores) {
  wgmma_fence();
  GPU_UNROLL for (unsigned step = 0; step < S::key_dim / 16; step++) {
    const std::uint64_t a = matrix_descriptor(queries + step / 4 * S::query_part_bytes) + 2 * (step % 4);
    const std::uint64_t b = matrix_descriptor(keys + step / 4 * S::part_bytes) + 2 * (step % 4);
    wgmma_bf16(scores, a, b, step > 0 ? 1 : 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// To base-2 units; −∞ where a row does not see the token.
GPU_DEVICE void scale_and_mask(const PrefillRows& at, int first_row, int first_token, float factor,
                               Scores& scores) {
  const int lane = static_cast<int>(gpu_lane());
  const bool all_seen = first_token + 128 <= at.visible(first_row);
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    const int left =
        all_seen ? 128 : at.visible(first_row + 8 * half + lane / 4) - first_token - lane % 4 * 2;
    GPU_UNROLL for (int j = 0; j < 16; j++) {
      GPU_UNROLL for (int c = 0; c < 2; c++) {
        float& score = scores[j][2 * half + c];
        score = all_seen || 8 * j + c < left ? score * factor : -INFINITY;
      }
    }
  }
}

template <class S>
GPU_DEVICE void add_values(const Scores& scores, SharedAddress values, float (&out)[S::value_dim / 8][4]) {
  std::uint32_t weights[8][4];
  GPU_UNROLL for (int step = 0; step < 8; step++) {
    GPU_UNROLL for (int i = 0; i < 4; i++) {
      const float(&from)[4] = scores[2 * step + i / 2];
      weights[step][i] = gpu_pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
  }
  wgmma_fence();
  GPU_UNROLL for (unsigned step = 0; step < 8; step++) {
    const SharedAddress rows = values + step * 16 * 128;
    wgmma_bf16_transposed<0>(out, weights[step], matrix_descriptor(rows));
    if constexpr (S::value_dim == 128) {
      wgmma_bf16_transposed<1>(out, weights[step], matrix_descriptor(rows + S::part_bytes));
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// Zeros for the values behind the last token: a weight of 0 times what lies there might be NaN. By both
// warpgroups together.
template <class S>
GPU_DEVICE void clear_values(unsigned char* tile, int from_token) {
  auto* words = reinterpret_cast<std::uint32_t*>(tile);
  const int words_of_part = (S::tokens - from_token) * 32;
  for (int i = static_cast<int>(threadIdx.x); i < S::value_parts * words_of_part; i += 128 * S::groups) {
    words[i / words_of_part * (S::part_bytes / 4) + from_token * 32 + i % words_of_part] = 0;
  }
  async_proxy_fence();
  meet(3, 128 * S::groups);
}

template <class S>
GPU_DEVICE void attend(const AttentionPrefill& p, const PrefillRows& at, unsigned char* shared,
                       Ring<S> ring) {
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int first_row = 64 * group + 16 * (static_cast<int>(gpu_warp_index()) % 4);
  const SharedAddress queries = ring.base + static_cast<unsigned>(group * S::query_bytes);
  load_queries<S>(p, at, group, queries);
  SoftmaxRows<S::value_dim> rows;
  rows.clear();
  const float factor = p.softmax_scale * 1.4426950408889634F;
  for (int first = 0; first < at.tokens; first += S::tokens) {
    Scores scores;
    barrier_wait(ring.filled(0), ring.parity);
    multiply_keys<S>(queries, ring.tile(0), scores);
    if (gpu_lane() == 0) barrier_arrive(ring.emptied(0));
    scale_and_mask(at, first_row, first, factor, scores);
    rows.exponentials(scores);
    barrier_wait(ring.filled(1), ring.parity);
    if (at.tokens - first < S::tokens) {
      clear_values<S>(shared + (ring.tile(1) - ring.base), at.tokens - first);
    }
    add_values<S>(scores, ring.tile(1), rows.out);
    if (gpu_lane() == 0) barrier_arrive(ring.emptied(1));
    ring.advance();
  }
  store_rows<S::value_dim>(p, at, first_row, rows);
}

#endif

template <class S>
__global__ void __launch_bounds__(S::threads, 1)
    prefill_wgmma_kernel(const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap values,
                         const __grid_constant__ AttentionPrefill p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  Ring<S> ring(shared_address(shared));
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < 2 * S::stages; i++) {
      const SharedAddress barrier = ring.base + S::barriers_offset + i * 16;
      barrier_init(barrier, 1);                  // filled: the lane that ordered the copies
      barrier_init(barrier + 8, 4 * S::groups);  // emptied: every warp that read
    }
    barrier_init_fence();
  }
  PrefillRows at;
  at.start(p);
  gpu_barrier();
  if (threadIdx.x >= 128 * S::groups) {
    give_registers<40>();
    const unsigned which = gpu_warp_index() % 4;
    const std::int32_t* table = p.kv.block_table + at.tile.sequence * p.kv.table_stride;
    if (which < 2) order_copies<S>(which == 0 ? &keys : &values, at, table, which, ring);
  } else {
    take_registers<232>();
    attend<S>(p, at, shared, ring);
  }
#endif
}

// Boxes of 64 dimensions of one head of the 16 tokens of a block.
CUtensorMap cache_map(const AttentionPrefill& p, const void* data, std::int32_t dimensions) {
  TensorMapShape shape;
  shape.rank = 3;
  shape.extent[0] = static_cast<cuuint64_t>(dimensions);
  shape.extent[1] = static_cast<cuuint64_t>(p.kv_heads);
  shape.extent[2] = static_cast<cuuint64_t>(p.kv.blocks * kv_block_tokens);
  shape.stride[0] = static_cast<cuuint64_t>(dimensions) * 2;
  shape.stride[1] = static_cast<cuuint64_t>(p.kv_heads) * static_cast<cuuint64_t>(dimensions) * 2;
  shape.box[0] = 64;
  shape.box[2] = kv_block_tokens;
  return tensor_map(data, shape);
}

template <class S>
void launch_prefill(const AttentionPrefill& p, void* stream) {
  static_cast<void>(cudaFuncSetAttribute(prefill_wgmma_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         S::shared_bytes));
  prefill_wgmma_kernel<S><<<static_cast<unsigned>(p.tile_count * p.kv_heads), S::threads, S::shared_bytes,
                            static_cast<cudaStream_t>(stream)>>>(cache_map(p, p.kv.keys, S::key_dim),
                                                                 cache_map(p, p.kv.values, S::value_dim), p);
}

}  // namespace prefill_wgmma

const char* attention_prefill_wgmma_refusal() { return wgmma_refusal(); }

void attention_prefill_wgmma(const AttentionPrefill& problem, void* stream) {
  if (problem.tile_count == 0) return;
  using namespace prefill_wgmma;
  switch (problem.head_dim) {
    case 192: return launch_prefill<Shape<192, 128>>(problem, stream);
    case 128: return launch_prefill<Shape<128, 128>>(problem, stream);
    default: return launch_prefill<Shape<64, 64>>(problem, stream);
  }
}

}  // namespace orrery::kernels
