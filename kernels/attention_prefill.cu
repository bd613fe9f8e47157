// Prefill attention on matrix cores, after FlashAttention-2: a block holds 128 query rows in
// shared memory, 32 a warp (with 16, reading keys and values from shared memory would take longer than the
// products), and walks over tiles of 64 tokens, the next one on its way by cp.async. Where there is no such
// copy, the next one waits in registers and a tile is 32 tokens: 48 KiB with the queries, of LDS's 64.
//
// A weight of zero still meets the value of a token that its row may not see: where a value is NaN, rows of
// the same tile become NaN too early, as in FlashAttention.
#include "kernels/attention_prefill.h"

#include "kernels/attention_fragments.h"
#include "kernels/attention_prefill_rows.h"
#include "kernels/gpu_runtime.h"
#include "kernels/matrix_tile.h"

namespace orrery::kernels {
namespace {

constexpr int tile_tokens = copies_run_ahead ? 64 : 32;
constexpr int row_fragments = ORRERY_MATRIX_TARGET == 1201 ? 1 : 2;  // whose 256 registers hold 16 rows a
                                                                     // warp
constexpr int prefill_threads = prefill_tile_rows / (16 * row_fragments) * GPU_WARP;

template <int HeadDim>
struct PrefillShape {
  using Head = HeadTile<HeadDim, false>;
  static constexpr int query_bytes = prefill_tile_rows * Head::row_bytes;
  static constexpr int values_offset = tile_tokens * Head::row_bytes, stage_bytes = 2 * values_offset;
  static constexpr int stages = copies_run_ahead ? 2 : 1, shared_bytes = query_bytes + stages * stage_bytes;
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

// The chunks of a tile of tokens that this thread copies, one of keys and one of values each turn: calls
// copy(turn, to, offset in the cache, valid). Behind the last visible token, zeros.
template <int HeadDim, class Copy>
GPU_DEVICE void for_tile(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                         int tile, Copy copy) {
  using Head = HeadTile<HeadDim, false>;
  const std::int64_t token_bytes = static_cast<std::int64_t>(p.kv_heads) * Head::row_bytes;
  constexpr int copies = tile_tokens * Head::chunks / prefill_threads;
  const std::uint32_t thread = fresh(threadIdx.x);
  ORRERY_UNROLL_BY(copies_run_ahead ? 2 : copies)  // more would keep addresses of all copies alive, and spill
  for (int i = 0; i < copies; i++) {
    const int index = static_cast<int>(thread) + prefill_threads * i;
    const int token = index / Head::chunks, chunk = index % Head::chunks;
    const bool valid = tile * tile_tokens + token < rows.tokens;
    const std::int64_t block =
        valid ? table[tile * (tile_tokens / kv_block_tokens) + token / kv_block_tokens] : 0;
    const std::int64_t at = (block * kv_block_tokens + token % kv_block_tokens) * token_bytes +
                            rows.kv_head * Head::row_bytes + chunk * 16;
    copy(i, Head::offset(static_cast<unsigned>(token), static_cast<unsigned>(chunk)), valid ? at : 0, valid);
  }
}

template <int HeadDim>
GPU_DEVICE void load_tile(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                          int tile, SharedAddress stage) {
  const auto* keys = static_cast<const unsigned char*>(p.kv.keys);
  const auto* values = static_cast<const unsigned char*>(p.kv.values);
  for_tile<HeadDim>(p, rows, table, tile, [&](int, std::uint32_t to, std::int64_t at, bool valid) {
    copy_async(stage + to, keys + at, valid);
    copy_async(stage + PrefillShape<HeadDim>::values_offset + to, values + at, valid);
  });
}

template <int HeadDim>
struct TileInRegisters {
  static constexpr int copies = tile_tokens * HeadTile<HeadDim, false>::chunks / prefill_threads;
  GpuBytes16 key[copies], value[copies];

  GPU_DEVICE_MEMBER void load(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                              int tile) {
    for_tile<HeadDim>(p, rows, table, tile, [&](int i, std::uint32_t, std::int64_t at, bool valid) {
      const auto* keys = static_cast<const unsigned char*>(p.kv.keys);
      const auto* values = static_cast<const unsigned char*>(p.kv.values);
      key[i] = load_or_zeros(keys + at, valid);
      value[i] = load_or_zeros(values + at, valid);
    });
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* stage) const {
    using Head = HeadTile<HeadDim, false>;
    const std::uint32_t thread = fresh(threadIdx.x);
    GPU_UNROLL for (int i = 0; i < copies; i++) {
      const unsigned index = thread + prefill_threads * static_cast<unsigned>(i);
      const std::uint32_t to = Head::offset(index / Head::chunks, index % Head::chunks);
      gpu_store(stage + to, 0, key[i]);
      gpu_store(stage + PrefillShape<HeadDim>::values_offset + to, 0, value[i]);
    }
  }
};

constexpr int score_parts = tile_tokens / 16 * tile_parts;
using Scores = float[row_fragments][score_parts][4];

template <int HeadDim>
GPU_DEVICE void score_tile(SharedAddress queries, SharedAddress keys, Scores& scores) {
  using Head = HeadTile<HeadDim, false>;
  const OperandChunk left = left_chunk(), right = right_chunk();
  const unsigned query_row = fresh(gpu_warp_index() * (16 * row_fragments) + static_cast<unsigned>(left.row));
  const unsigned key_row = fresh(static_cast<unsigned>(right.row));
  MatrixTile tiles[row_fragments][tile_tokens / 16] = {};
  GPU_UNROLL for (unsigned step = 0; step < HeadDim * 2 / tile_step_bytes; step++) {
    const unsigned chunk = tile_step_chunks * step;
    MatrixOperand q[row_fragments];
    GPU_UNROLL for (unsigned i = 0; i < row_fragments; i++) {
      q[i].load(queries + Head::offset(query_row + 16 * i, chunk + static_cast<unsigned>(left.chunk)));
    }
    GPU_UNROLL for (unsigned block = 0; block < tile_tokens / 16; block++) {
      MatrixOperand k;
      k.load(keys + Head::offset(key_row + 16 * block, chunk + static_cast<unsigned>(right.chunk)));
      GPU_UNROLL for (int i = 0; i < row_fragments; i++) multiply_step<false>(tiles[i][block], q[i], k);
    }
    keep_order();
  }
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    GPU_UNROLL for (int j = 0; j < score_parts; j++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) scores[i][j][c] =
          tiles[i][j / tile_parts].value[j % tile_parts][c];
    }
  }
}

// To base-2 units; −∞ where a row does not see the token.
GPU_DEVICE void scale_and_mask(const PrefillRows& rows, int tile, float factor, Scores& scores) {
  const int first = static_cast<int>(gpu_warp_index()) * 16 * row_fragments;
  const bool all_seen = (tile + 1) * tile_tokens <= rows.visible(first);
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
      const int left =
          all_seen ? tile_tokens
                   : rows.visible(first + 16 * i + tile_row(half)) - tile * tile_tokens - tile_column(0, 0);
      GPU_UNROLL for (int j = 0; j < score_parts; j++) {
        GPU_UNROLL for (int c = 0; c < 4; c++) {
          if (tile_held(c) != half) continue;
          float& score = scores[i][j][c];
          const int column = 16 * (j / tile_parts) + tile_part_column(j % tile_parts, c);
          score = all_seen || column < left ? score * factor : -gpu_infinity;
        }
      }
    }
  }
}

template <int HeadDim>
GPU_DEVICE void add_values(SharedAddress values, const Scores& weights,
                           SoftmaxRows<HeadDim> (&rows)[row_fragments]) {
  GPU_UNROLL for (int block = 0; block < tile_tokens / 16; block++) {
    std::uint32_t w[row_fragments][weight_words];
    GPU_UNROLL for (int i = 0; i < row_fragments; i++) pack_weights(weights[i], tile_parts * block, w[i]);
    GPU_UNROLL for (int tile = 0; tile < HeadDim / 16; tile++) {
      ValueOperand v;
      v.load<HeadDim>(values, static_cast<unsigned>(16 * block), static_cast<unsigned>(tile));
      GPU_UNROLL for (int i = 0; i < row_fragments; i++)
          multiply_tokens(rows[i].out, tile_parts * tile, w[i], v);
      keep_order();
    }
  }
}

// One tile of tokens in shared memory: scores, softmax, values.
template <int HeadDim>
GPU_DEVICE void attend_tile(const PrefillRows& at, int tile, float factor, SharedAddress queries,
                            SharedAddress stage, SoftmaxRows<HeadDim> (&rows)[row_fragments]) {
  Scores scores;
  score_tile<HeadDim>(queries, stage, scores);
  scale_and_mask(at, tile, factor, scores);
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) rows[i].exponentials(scores[i]);
  add_values<HeadDim>(stage + PrefillShape<HeadDim>::values_offset, scores, rows);
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
  SoftmaxRows<HeadDim> rows[row_fragments];
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) rows[i].clear();
  const float factor = p.softmax_scale * 1.4426950408889634F;
  if constexpr (copies_run_ahead) {
    load_tile<HeadDim>(p, at, table, 0, stages);
    copy_async_commit();
    for (int tile = 0; tile < tiles; tile++) {
      copy_async_wait<0>();
      gpu_barrier();  // the tile is there for all, and all are through with the one before
      if (tile + 1 < tiles) {
        load_tile<HeadDim>(p, at, table, tile + 1,
                           stages + static_cast<unsigned>((tile + 1) % 2 * Shape::stage_bytes));
        copy_async_commit();
      }
      attend_tile<HeadDim>(at, tile, factor, queries,
                           stages + static_cast<unsigned>(tile % 2 * Shape::stage_bytes), rows);
    }
  } else {
    TileInRegisters<HeadDim> next;
    next.load(p, at, table, 0);
    for (int tile = 0; tile < tiles; tile++) {
      gpu_barrier();  // all are through with the tile before
      next.lay_down(shared + Shape::query_bytes);
      gpu_barrier();
      if (tile + 1 < tiles) next.load(p, at, table, tile + 1);
      attend_tile<HeadDim>(at, tile, factor, queries, stages, rows);
    }
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
