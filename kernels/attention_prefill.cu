// Prefill attention with mma.sync, after FlashAttention-2: a block of four warps holds 128 query rows in
// shared memory, 32 a warp (with 16, reading keys and values from shared memory would take longer than the
// products), and walks over tiles of 64 tokens, the next one on its way by cp.async.
//
// A weight of zero still meets the value of a token that its row may not see: where a value is NaN, rows of
// the same tile become NaN too early, as in FlashAttention.
#include "kernels/attention_prefill.h"

#include "kernels/attention_fragments.h"
#include "kernels/attention_prefill_rows.h"
#include "kernels/gpu_runtime.h"
#include "kernels/tensor_core.h"

namespace orrery::kernels {
namespace {

constexpr int prefill_threads = 128, tile_tokens = 64, row_fragments = 2;

template <int HeadDim>
struct PrefillShape {
  using Head = HeadTile<HeadDim, false>;
  static constexpr int query_bytes = prefill_tile_rows * Head::row_bytes;
  static constexpr int values_offset = tile_tokens * Head::row_bytes, stage_bytes = 2 * values_offset;
  static constexpr int shared_bytes = query_bytes + 2 * stage_bytes;
};

template <int HeadDim>
GPU_DEVICE void load_queries(const AttentionPrefill& p, const PrefillRows& rows, SharedAddress to) {
  using Head = HeadTile<HeadDim, false>;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries);
  for (int index = static_cast<int>(threadIdx.x); index < prefill_tile_rows * Head::chunks;
       index += prefill_threads) {
    const int row = index / Head::chunks, chunk = index % Head::chunks;
    const bool valid = row < rows.count;
    const std::uint16_t* from = queries + (valid ? rows.offset(p, row) + chunk * 8 : 0);
    copy_async(to + Head::offset(static_cast<unsigned>(row), static_cast<unsigned>(chunk)), from, valid);
  }
}

// Keys and values of 64 tokens; behind the last visible token, zeros.
template <int HeadDim>
GPU_DEVICE void load_tile(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                          int tile, SharedAddress stage) {
  using Head = HeadTile<HeadDim, false>;
  const std::int64_t token_bytes = static_cast<std::int64_t>(p.kv_heads) * Head::row_bytes;
  const auto* keys = static_cast<const unsigned char*>(p.kv.keys);
  const auto* values = static_cast<const unsigned char*>(p.kv.values);
  constexpr int copies = tile_tokens * Head::chunks / prefill_threads;
  static_assert(prefill_threads / Head::chunks <= kv_block_tokens, "a turn of copies stays within a block");
  ORRERY_UNROLL_BY(2)  // more would keep addresses of all copies alive, and spill
  for (int i = 0; i < copies; i++) {
    const int index = static_cast<int>(threadIdx.x) + prefill_threads * i;
    const int token = index / Head::chunks, chunk = index % Head::chunks;
    const bool valid = tile * tile_tokens + token < rows.tokens;
    const std::int64_t block =
        valid ? table[tile * (tile_tokens / kv_block_tokens) + token / kv_block_tokens] : 0;
    const std::int64_t at = (block * kv_block_tokens + token % kv_block_tokens) * token_bytes +
                            rows.kv_head * Head::row_bytes + chunk * 16;
    const std::uint32_t to = Head::offset(static_cast<unsigned>(token), static_cast<unsigned>(chunk));
    copy_async(stage + to, keys + (valid ? at : 0), valid);
    copy_async(stage + PrefillShape<HeadDim>::values_offset + to, values + (valid ? at : 0), valid);
  }
}

using Scores = float[row_fragments][tile_tokens / 8][4];

template <int HeadDim>
GPU_DEVICE void score_tile(SharedAddress queries, SharedAddress keys, Scores& scores) {
  using Head = HeadTile<HeadDim, false>;
  const unsigned lane = gpu_lane();
  const unsigned query_row = gpu_warp_index() * (16 * row_fragments) + lane % 16, query_chunk = lane / 16;
  const unsigned key_row = lane / 16 * 8 + lane % 8, key_chunk = lane / 8 % 2;
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    GPU_UNROLL for (int j = 0; j < tile_tokens / 8; j++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) scores[i][j][c] = 0;
    }
  }
  GPU_UNROLL for (unsigned step = 0; step < Head::k_steps; step++) {
    std::uint32_t q[row_fragments][4];
    GPU_UNROLL for (unsigned i = 0; i < row_fragments; i++) {
      load_matrix_x4(q[i], queries + Head::offset(query_row + 16 * i, 2 * step + query_chunk));
    }
    GPU_UNROLL for (unsigned block = 0; block < tile_tokens / 16; block++) {
      std::uint32_t k[4];
      load_matrix_x4(k, keys + Head::offset(key_row + 16 * block, 2 * step + key_chunk));
      GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
        mma_bf16(scores[i][2 * block], q[i], k[0], k[1]);
        mma_bf16(scores[i][2 * block + 1], q[i], k[2], k[3]);
      }
    }
  }
}

// To base-2 units; −∞ where a row does not see the token.
GPU_DEVICE void scale_and_mask(const PrefillRows& rows, int tile, float factor, Scores& scores) {
  const int lane = static_cast<int>(gpu_lane()),
            first = static_cast<int>(gpu_warp_index()) * 16 * row_fragments;
  const bool all_seen = (tile + 1) * tile_tokens <= rows.visible(first);
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    GPU_UNROLL for (int half = 0; half < 2; half++) {
      const int left =
          all_seen ? tile_tokens
                   : rows.visible(first + 16 * i + 8 * half + lane / 4) - tile * tile_tokens - lane % 4 * 2;
      GPU_UNROLL for (int j = 0; j < tile_tokens / 8; j++) {
        GPU_UNROLL for (int c = 0; c < 2; c++) {
          float& score = scores[i][j][2 * half + c];
          score = all_seen || 8 * j + c < left ? score * factor : -INFINITY;
        }
      }
    }
  }
}

template <int HeadDim>
GPU_DEVICE void add_values(SharedAddress values, const Scores& weights,
                           SoftmaxRows<HeadDim> (&rows)[row_fragments]) {
  using Head = HeadTile<HeadDim, false>;
  const unsigned lane = gpu_lane(), value_row = lane % 16, value_chunk = lane / 16;
  GPU_UNROLL for (unsigned block = 0; block < tile_tokens / 16; block++) {
    std::uint32_t w[row_fragments][4];
    GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) {
        const float(&from)[4] = weights[i][2 * block + static_cast<unsigned>(c / 2)];
        w[i][c] = gpu_pack_bf16(from[c % 2 * 2], from[c % 2 * 2 + 1]);
      }
    }
    GPU_UNROLL for (unsigned pair = 0; pair < Head::chunks / 2; pair++) {
      std::uint32_t v[4];
      load_matrix_x4_transposed(v, values + Head::offset(value_row + 16 * block, 2 * pair + value_chunk));
      GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
        mma_bf16(rows[i].out[2 * pair], w[i], v[0], v[1]);
        mma_bf16(rows[i].out[2 * pair + 1], w[i], v[2], v[3]);
      }
    }
  }
}

template <int HeadDim>
__global__ void __launch_bounds__(prefill_threads, 2) prefill_kernel(const AttentionPrefill p) {
  using Shape = PrefillShape<HeadDim>;
  ORRERY_DYNAMIC_SHARED(shared, Shape::shared_bytes);
  const SharedAddress queries = shared_address(shared), stages = queries + Shape::query_bytes;
  PrefillRows at;
  at.start(p);
  const std::int32_t* table = p.kv.block_table + at.tile.sequence * p.kv.table_stride;
  const int tiles = (at.tokens + tile_tokens - 1) / tile_tokens;
  load_queries<HeadDim>(p, at, queries);
  load_tile<HeadDim>(p, at, table, 0, stages);
  copy_async_commit();
  SoftmaxRows<HeadDim> rows[row_fragments];
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) rows[i].clear();
  const float factor = p.softmax_scale * 1.4426950408889634F;
  for (int tile = 0; tile < tiles; tile++) {
    copy_async_wait<0>();
    gpu_barrier();  // the tile is there for all, and all are through with the one before
    const SharedAddress stage = stages + static_cast<unsigned>(tile % 2 * Shape::stage_bytes);
    if (tile + 1 < tiles) {
      load_tile<HeadDim>(p, at, table, tile + 1,
                         stages + static_cast<unsigned>((tile + 1) % 2 * Shape::stage_bytes));
      copy_async_commit();
    }
    Scores scores;
    score_tile<HeadDim>(queries, stage, scores);
    scale_and_mask(at, tile, factor, scores);
    GPU_UNROLL for (int i = 0; i < row_fragments; i++) rows[i].exponentials(scores[i]);
    add_values<HeadDim>(stage + Shape::values_offset, scores, rows);
  }
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    store_rows<HeadDim>(p, at, (static_cast<int>(gpu_warp_index()) * row_fragments + i) * 16, rows[i]);
  }
}

template <int HeadDim>
void launch_prefill(const AttentionPrefill& p, void* stream) {
  launch_shared(prefill_kernel<HeadDim>, {static_cast<unsigned>(p.tile_count * p.kv_heads)}, prefill_threads,
                PrefillShape<HeadDim>::shared_bytes, stream, p);
}

}  // namespace

void attention_prefill(const AttentionPrefill& problem, void* stream) {
  if (problem.tile_count == 0) return;
  if (problem.head_dim == 128) {
    launch_prefill<128>(problem, stream);
  } else {
    launch_prefill<64>(problem, stream);
  }
}

}  // namespace orrery::kernels
