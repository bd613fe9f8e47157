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

constexpr int row_fragments = ORRERY_MATRIX_TARGET == 1201 ? 1 : 2;  // whose 256 registers hold 16 rows a
                                                                     // warp
constexpr int prefill_threads = prefill_tile_rows / (16 * row_fragments) * GPU_WARP;

template <int KeyDim, int ValueDim>
struct PrefillShape {
  using Keys = HeadTile<KeyDim, false>;
  using Values = HeadTile<ValueDim, false>;
  static constexpr int key_dim = KeyDim, value_dim = ValueDim;
  // Half as many with heads of 192: 88 KiB of sm_89's 99, 58 of LDS's 64.
  static constexpr int tokens = (copies_run_ahead ? 64 : 32) / (KeyDim > 128 ? 2 : 1);
  static constexpr int query_bytes = prefill_tile_rows * Keys::row_bytes;
  static constexpr int values_offset = tokens * Keys::row_bytes;
  static constexpr int stage_bytes = values_offset + tokens * Values::row_bytes;
  static constexpr int score_parts = tokens / 16 * tile_parts;
  using Scores = float[row_fragments][score_parts][4];
  static constexpr int stages = copies_run_ahead ? 2 : 1, shared_bytes = query_bytes + stages * stage_bytes;
};

template <class Shape>
GPU_DEVICE void load_queries(const AttentionPrefill& p, const PrefillRows& rows, SharedAddress to) {
  using Head = typename Shape::Keys;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries);
  for (int index = static_cast<int>(threadIdx.x); index < prefill_tile_rows * Head::chunks;
       index += prefill_threads) {
    const int row = index / Head::chunks, chunk = index % Head::chunks;
    const bool valid = row < rows.count;
    const std::uint16_t* from = queries + (valid ? rows.index(p, row) * Shape::key_dim + chunk * 8 : 0);
    copy_async(to + Head::offset(static_cast<unsigned>(row), static_cast<unsigned>(chunk)), from, valid);
  }
}

// How many chunks of a tile of keys or values a thread copies, and whether all threads do each time.
template <class Shape, class Head>
struct TileCopies {
  static constexpr int all = Shape::tokens * Head::chunks;
  static constexpr int count = (all + prefill_threads - 1) / prefill_threads;
  static constexpr bool even = all % prefill_threads == 0;
};

// The chunks of a tile of keys or values that this thread copies: calls copy(turn, to, offset in the cache,
// valid). Behind the last visible token, zeros.
template <class Shape, class Head, class Copy>
GPU_DEVICE void for_tile(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                         int tile, Copy copy) {
  using Copies = TileCopies<Shape, Head>;
  const std::int64_t token_bytes = static_cast<std::int64_t>(p.kv_heads) * Head::row_bytes;
  const std::uint32_t thread = fresh(threadIdx.x);
  ORRERY_UNROLL_BY(copies_run_ahead ? 2 : Copies::count)  // more would keep addresses of all copies alive
  for (int i = 0; i < Copies::count; i++) {
    const int index = static_cast<int>(thread) + prefill_threads * i;
    const int token = index / Head::chunks, chunk = index % Head::chunks;
    if (!Copies::even && token >= Shape::tokens) break;
    const bool valid = tile * Shape::tokens + token < rows.tokens;
    const std::int64_t block =
        valid ? table[tile * (Shape::tokens / kv_block_tokens) + token / kv_block_tokens] : 0;
    const std::int64_t at = (block * kv_block_tokens + token % kv_block_tokens) * token_bytes +
                            rows.kv_head * Head::row_bytes + chunk * 16;
    copy(i, Head::offset(static_cast<unsigned>(token), static_cast<unsigned>(chunk)), valid ? at : 0, valid);
  }
}

template <class Shape>
GPU_DEVICE void load_tile(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                          int tile, SharedAddress stage) {
  const auto* keys = static_cast<const unsigned char*>(p.kv.keys);
  const auto* values = static_cast<const unsigned char*>(p.kv.values);
  for_tile<Shape, typename Shape::Keys>(
      p, rows, table, tile,
      [&](int, std::uint32_t to, std::int64_t at, bool valid) { copy_async(stage + to, keys + at, valid); });
  for_tile<Shape, typename Shape::Values>(p, rows, table, tile,
                                          [&](int, std::uint32_t to, std::int64_t at, bool valid) {
                                            copy_async(stage + Shape::values_offset + to, values + at, valid);
                                          });
}

template <class Shape, class Head>
struct TileInRegisters {
  using Copies = TileCopies<Shape, Head>;
  GpuBytes16 bytes[Copies::count];

  GPU_DEVICE_MEMBER void load(const AttentionPrefill& p, const PrefillRows& rows, const std::int32_t* table,
                              int tile, const void* from) {
    for_tile<Shape, Head>(p, rows, table, tile, [&](int i, std::uint32_t, std::int64_t at, bool valid) {
      bytes[i] = load_or_zeros(static_cast<const unsigned char*>(from) + at, valid);
    });
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* to) const {
    const std::uint32_t thread = fresh(threadIdx.x);
    GPU_UNROLL for (int i = 0; i < Copies::count; i++) {
      const unsigned index = thread + prefill_threads * static_cast<unsigned>(i);
      if (!Copies::even && index >= static_cast<unsigned>(Copies::all)) break;
      gpu_store(to + Head::offset(index / Head::chunks, index % Head::chunks), 0, bytes[i]);
    }
  }
};

template <class Shape>
GPU_DEVICE void score_tile(SharedAddress queries, SharedAddress keys, typename Shape::Scores& scores) {
  using Head = typename Shape::Keys;
  const OperandChunk left = left_chunk(), right = right_chunk();
  const unsigned query_row = fresh(gpu_warp_index() * (16 * row_fragments) + static_cast<unsigned>(left.row));
  const unsigned key_row = fresh(static_cast<unsigned>(right.row));
  MatrixTile tiles[row_fragments][Shape::tokens / 16] = {};
  GPU_UNROLL for (unsigned step = 0; step < Head::row_bytes / tile_step_bytes; step++) {
    const unsigned chunk = tile_step_chunks * step;
    MatrixOperand q[row_fragments];
    GPU_UNROLL for (unsigned i = 0; i < row_fragments; i++) {
      q[i].load(queries + Head::offset(query_row + 16 * i, chunk + static_cast<unsigned>(left.chunk)));
    }
    GPU_UNROLL for (unsigned block = 0; block < Shape::tokens / 16; block++) {
      MatrixOperand k;
      k.load(keys + Head::offset(key_row + 16 * block, chunk + static_cast<unsigned>(right.chunk)));
      GPU_UNROLL for (int i = 0; i < row_fragments; i++) multiply_step<false>(tiles[i][block], q[i], k);
    }
    keep_order();
  }
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    GPU_UNROLL for (int j = 0; j < Shape::score_parts; j++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) scores[i][j][c] =
          tiles[i][j / tile_parts].value[j % tile_parts][c];
    }
  }
}

// To base-2 units; −∞ where a row does not see the token.
template <class Shape>
GPU_DEVICE void scale_and_mask(const PrefillRows& rows, int tile, float factor,
                               typename Shape::Scores& scores) {
  const int first = static_cast<int>(gpu_warp_index()) * 16 * row_fragments;
  const bool all_seen = (tile + 1) * Shape::tokens <= rows.visible(first);
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
      const int left =
          all_seen ? Shape::tokens
                   : rows.visible(first + 16 * i + tile_row(half)) - tile * Shape::tokens - tile_column(0, 0);
      GPU_UNROLL for (int j = 0; j < Shape::score_parts; j++) {
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

template <class Shape>
GPU_DEVICE void add_values(SharedAddress values, const typename Shape::Scores& weights,
                           SoftmaxRows<Shape::value_dim> (&rows)[row_fragments]) {
  GPU_UNROLL for (int block = 0; block < Shape::tokens / 16; block++) {
    std::uint32_t w[row_fragments][weight_words];
    GPU_UNROLL for (int i = 0; i < row_fragments; i++) pack_weights(weights[i], tile_parts * block, w[i]);
    GPU_UNROLL for (int tile = 0; tile < Shape::value_dim / 16; tile++) {
      ValueOperand v;
      v.load<Shape::value_dim>(values, static_cast<unsigned>(16 * block), static_cast<unsigned>(tile));
      GPU_UNROLL for (int i = 0; i < row_fragments; i++)
          multiply_tokens(rows[i].out, tile_parts * tile, w[i], v);
      keep_order();
    }
  }
}

// One tile of tokens in shared memory: scores, softmax, values.
template <class Shape>
GPU_DEVICE void attend_tile(const PrefillRows& at, int tile, float factor, SharedAddress queries,
                            SharedAddress stage, SoftmaxRows<Shape::value_dim> (&rows)[row_fragments]) {
  typename Shape::Scores scores;
  score_tile<Shape>(queries, stage, scores);
  scale_and_mask<Shape>(at, tile, factor, scores);
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) rows[i].exponentials(scores[i]);
  add_values<Shape>(stage + Shape::values_offset, scores, rows);
}

template <int KeyDim, int ValueDim>
__global__ void __launch_bounds__(prefill_threads, 2) prefill_kernel(const AttentionPrefill p) {
  using Shape = PrefillShape<KeyDim, ValueDim>;
  ORRERY_DYNAMIC_SHARED(shared, Shape::shared_bytes);
  const SharedAddress queries = shared_address(shared), stages = queries + Shape::query_bytes;
  PrefillRows at;
  at.start(p);
  const std::int32_t* table = p.kv.block_table + at.tile.sequence * p.kv.table_stride;
  const int tiles = (at.tokens + Shape::tokens - 1) / Shape::tokens;
  load_queries<Shape>(p, at, queries);
  SoftmaxRows<ValueDim> rows[row_fragments];
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) rows[i].clear();
  const float factor = p.softmax_scale * 1.4426950408889634F;
  if constexpr (copies_run_ahead) {
    load_tile<Shape>(p, at, table, 0, stages);
    copy_async_commit();
    for (int tile = 0; tile < tiles; tile++) {
      copy_async_wait<0>();
      gpu_barrier();  // the tile is there for all, and all are through with the one before
      if (tile + 1 < tiles) {
        load_tile<Shape>(p, at, table, tile + 1,
                         stages + static_cast<unsigned>((tile + 1) % 2 * Shape::stage_bytes));
        copy_async_commit();
      }
      attend_tile<Shape>(at, tile, factor, queries,
                         stages + static_cast<unsigned>(tile % 2 * Shape::stage_bytes), rows);
    }
  } else {
    TileInRegisters<Shape, typename Shape::Keys> keys;
    TileInRegisters<Shape, typename Shape::Values> values;
    const auto load = [&](int tile) {
      keys.load(p, at, table, tile, p.kv.keys);
      values.load(p, at, table, tile, p.kv.values);
    };
    load(0);
    for (int tile = 0; tile < tiles; tile++) {
      gpu_barrier();  // all are through with the tile before
      keys.lay_down(shared + Shape::query_bytes);
      values.lay_down(shared + Shape::query_bytes + Shape::values_offset);
      gpu_barrier();
      if (tile + 1 < tiles) load(tile + 1);
      attend_tile<Shape>(at, tile, factor, queries, stages, rows);
    }
  }
  GPU_UNROLL for (int i = 0; i < row_fragments; i++) {
    store_rows<ValueDim>(p, at, (static_cast<int>(gpu_warp_index()) * row_fragments + i) * 16, rows[i]);
  }
}

template <int KeyDim, int ValueDim>
void launch_prefill(const AttentionPrefill& p, void* stream) {
  launch_shared(prefill_kernel<KeyDim, ValueDim>, {static_cast<unsigned>(p.tile_count * p.kv_heads)},
                prefill_threads, PrefillShape<KeyDim, ValueDim>::shared_bytes, stream, p);
}

}  // namespace

void attention_prefill(const AttentionPrefill& problem, void* stream) {
  if (problem.tile_count == 0) return;
  switch (problem.head_dim) {
    case 192: return launch_prefill<192, 128>(problem, stream);
    case 128: return launch_prefill<128, 128>(problem, stream);
    default: return launch_prefill<64, 64>(problem, stream);
  }
}

}  // namespace orrery::kernels
