// Absorbed latent attention on matrix cores of every target. A block of four warps takes a piece of a
// sequence for 16 query heads, 32 tokens at a time, which lie in shared memory once: as keys, and their first
// 512 dimensions as values. Scores of 16 × 16 tokens are the work of two warps, half of the dimensions each;
// all four add the halves up and take the softmax, so that each has the weights for its own 128 dimensions of
// the output without another exchange.
//
// The next tokens are on their way by cp.async into a second buffer; where there is none, or they are stored
// in eight bits and become bf16 on the way, they wait in registers.
#include "kernels/mla_decode.h"

#include "kernels/attention_fragments.h"
#include "kernels/attention_merge.h"
#include "kernels/gpu_runtime.h"
#include "kernels/latent_rows.h"
#include "kernels/matrix_tile.h"

namespace orrery::kernels {
namespace {

constexpr int warps = 4, threads = warps * GPU_WARP, tile_tokens = 32, half_key = latent_key / 2;
constexpr int dims_of_warp = latent_width / warps;
using Tile = HeadTile<latent_key, false>;

template <LatentFormat Format>
struct Shape {
  static constexpr bool runs_ahead = copies_run_ahead && Format == LatentFormat::bf16;
  static constexpr int stages = runs_ahead ? 2 : 1, stage_bytes = tile_tokens * Tile::row_bytes;
  static constexpr int scores_bytes = warps * 4 * tile_parts * GPU_WARP * 4;
  static constexpr int queries_offset = stages * stage_bytes, scores_offset = queries_offset + Tile::bytes;
  static constexpr int shared_bytes = scores_offset + scores_bytes;
  static constexpr int row_bytes = latent_row_bytes(Format);
  // 16-byte chunks of a row, scales left out, and how many a thread copies of a tile.
  static constexpr int chunks = Format == LatentFormat::packed ? row_bytes / 16 - 1 : row_bytes / 16;
  static constexpr int copies = (tile_tokens * chunks + threads - 1) / threads;
};

struct Place {
  DecodePiece piece;
  int first_head, heads, tiles;
};

// Rows of a tile's tokens, one a lane (of 32); behind the last, the tile's first.
GPU_DEVICE std::int64_t rows_of_tile(const MlaDecode& p, const Place& at, int tile) {
  const int token = at.piece.first + tile * tile_tokens + static_cast<int>(gpu_lane()) % tile_tokens;
  return latent_row(p.kv, at.piece.sequence, token < at.piece.end ? token : at.piece.end - 1);
}

// The chunks of a tile that this thread copies: calls copy(turn, token, chunk, from, scale's place, valid).
template <LatentFormat Format, class Copy>
GPU_DEVICE void for_chunks(const MlaDecode& p, std::int64_t row_of_lane, int tokens, Copy copy) {
  using S = Shape<Format>;
  const auto* cache = static_cast<const unsigned char*>(p.kv.rows);
  const std::uint32_t thread = fresh(threadIdx.x);
  ORRERY_UNROLL_BY(S::runs_ahead ? 2 : S::copies)  // more would keep addresses of all copies alive
  for (int i = 0; i < S::copies; i++) {
    const int index = static_cast<int>(thread) + threads * i;
    const int token = index / S::chunks, chunk = index % S::chunks;
    const std::int64_t row = gpu_shuffle(row_of_lane, static_cast<unsigned>(token % tile_tokens));
    const unsigned char* from = cache + row * S::row_bytes;
    if (S::copies * threads == tile_tokens * S::chunks || token < tile_tokens) {
      copy(i, static_cast<unsigned>(token), static_cast<unsigned>(chunk), from, token < tokens);
    }
  }
}

// Eight-bit tokens, or all of them where copies do not run ahead.
template <LatentFormat Format>
struct TileInRegisters {
  using S = Shape<Format>;
  GpuBytes16 bytes[S::copies];
  float scale[Format == LatentFormat::packed ? S::copies : 1];

  GPU_DEVICE_MEMBER void load(const MlaDecode& p, std::int64_t row_of_lane, int tokens) {
    for_chunks<Format>(p, row_of_lane, tokens,
                       [&](int i, unsigned, unsigned chunk, const unsigned char* row, bool valid) {
                         const bool rotary = Format == LatentFormat::packed && chunk >= latent_width / 16;
                         bytes[i] = load_or_zeros(row + (chunk + (rotary ? 1 : 0)) * 16, valid);
                         if constexpr (Format == LatentFormat::packed) {
                           scale[i] = gpu_load<float>(row + latent_scales_at, rotary ? 0 : chunk / 8);
                         }
                       });
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* tile) const {
    const std::uint32_t thread = fresh(threadIdx.x);
    GPU_UNROLL for (int i = 0; i < S::copies; i++) {
      const unsigned index = thread + threads * static_cast<unsigned>(i);
      const unsigned token = index / S::chunks, chunk = index % S::chunks;
      if (S::copies * threads != tile_tokens * S::chunks && token >= tile_tokens) continue;
      if constexpr (Format == LatentFormat::bf16) {
        gpu_store(tile + Tile::offset(token, chunk), 0, bytes[i]);
      } else if (Format == LatentFormat::packed && chunk >= latent_width / 16) {
        gpu_store(tile + Tile::offset(token, chunk + latent_width / 16), 0, bytes[i]);
      } else {
        const LatentSixteen sixteen =
            unpack_latent_of<Format>(bytes[i], Format == LatentFormat::packed ? scale[i] : 1.0F);
        GPU_UNROLL for (unsigned half = 0; half < 2; half++) {
          gpu_store(tile + Tile::offset(token, 2 * chunk + half), 0, sixteen.half[half]);
        }
      }
    }
  }
};

GPU_DEVICE void load_queries(const MlaDecode& p, const Place& at, SharedAddress to) {
  const std::int64_t first = (std::int64_t{at.piece.sequence} * p.heads + at.first_head) * latent_key;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries) + first;
  for (int index = static_cast<int>(threadIdx.x); index < mla_plain_heads * Tile::chunks; index += threads) {
    const int row = index / Tile::chunks, chunk = index % Tile::chunks;
    const bool valid = row < at.heads;
    copy_async(to + Tile::offset(static_cast<unsigned>(row), static_cast<unsigned>(chunk)),
               queries + (valid ? row * latent_key + chunk * 8 : 0), valid);
  }
}

// This warp's half of the dimensions, for its 16 of the tile's tokens.
GPU_DEVICE void score_half(SharedAddress queries, SharedAddress tile, MatrixTile& scores) {
  const OperandChunk left = left_chunk(), right = right_chunk();
  const unsigned warp = gpu_warp_index(), first = warp / 2 * (half_key / 8);
  const std::uint32_t head = fresh(static_cast<unsigned>(left.row));
  const std::uint32_t token = fresh(warp % 2 * 16 + static_cast<unsigned>(right.row));
  GPU_UNROLL for (int i = 0; i < 4 * tile_parts; i++) scores.value[i / 4][i % 4] = 0;
  GPU_UNROLL for (unsigned step = 0; step < half_key * 2 / tile_step_bytes; step++) {
    MatrixOperand q, k;
    const unsigned chunk = first + tile_step_chunks * step;
    q.load(queries + Tile::offset(head, chunk + static_cast<unsigned>(left.chunk)));
    k.load(tile + Tile::offset(token, chunk + static_cast<unsigned>(right.chunk)));
    multiply_step<false>(scores, q, k);
    if (step % 2 == 1) keep_order();
  }
}

// Scores of a tile, by all warps: halves meet in `exchange`, value by value, a lane's where that lane looks.
GPU_DEVICE void share_scores(const MatrixTile& mine, float* exchange, int tokens, float factor,
                             float (&scores)[2 * tile_parts][4]) {
  constexpr int of_warp = 4 * tile_parts * GPU_WARP;
  const int lane = static_cast<int>(gpu_lane()), warp = static_cast<int>(gpu_warp_index());
  GPU_UNROLL for (int i = 0; i < 4 * tile_parts; i++) {
    exchange[warp * of_warp + i * GPU_WARP + lane] = mine.value[i / 4][i % 4];
  }
  gpu_barrier();
  GPU_UNROLL for (int block = 0; block < 2; block++) {
    GPU_UNROLL for (int i = 0; i < 4 * tile_parts; i++) {
      const float* from = exchange + block * of_warp + i * GPU_WARP + lane;
      const bool seen = 16 * block + tile_column(i / 4, i % 4) < tokens;
      const float sum = from[0] + from[2 * of_warp];
      scores[tile_parts * block + i / 4][i % 4] = seen ? sum * factor : -gpu_infinity;
    }
  }
}

GPU_DEVICE void add_values(const float (&weights)[2 * tile_parts][4], SharedAddress tile,
                           SoftmaxRows<dims_of_warp>& rows) {
  const unsigned first = gpu_warp_index() * (dims_of_warp / 16);
  GPU_UNROLL for (int block = 0; block < 2; block++) {
    std::uint32_t w[weight_words];
    pack_weights(weights, tile_parts * block, w);
    GPU_UNROLL for (unsigned i = 0; i < dims_of_warp / 16; i++) {
      ValueOperand v;
      v.load<latent_key>(tile, static_cast<unsigned>(16 * block), first + i);
      multiply_tokens(rows.out, tile_parts * static_cast<int>(i), w, v);
      keep_order();
    }
  }
}

GPU_DEVICE void store_rows(const MlaDecode& p, const Place& at, SoftmaxRows<dims_of_warp>& rows) {
  rows.finish_sums();
  const int warp = static_cast<int>(gpu_warp_index());
  const float of_values = p.kv.format == LatentFormat::fp8 ? p.kv.scale : 1.0F;
  const bool whole = at.piece.slot < 0;
  const std::int64_t result = whole ? at.piece.sequence : at.piece.slot;
  GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
    if (tile_row(half) >= at.heads) continue;
    const std::int64_t row = result * p.heads + at.first_head + tile_row(half);
    const float factor = of_values / rows.sum[half];
    GPU_UNROLL for (int j = 0; j < SoftmaxRows<dims_of_warp>::parts; j++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) {
        if (tile_held(c) != half) continue;
        const std::int64_t dimension =
            warp * dims_of_warp + j / tile_parts * 16 + tile_column(j % tile_parts, c);
        const float value = rows.out[j][c] * factor;
        if (whole) {
          static_cast<std::uint16_t*>(p.out)[row * latent_width + dimension] = gpu_to_bf16(value);
        } else {
          p.partial[row * latent_width + dimension] = value;
        }
      }
    }
    if (!whole && warp == 0 && tile_row_first()) {
      p.partial_log_sum[row] = rows.largest[half] + gpu_log2(rows.sum[half]);
    }
  }
}

template <LatentFormat Format>
__global__ void __launch_bounds__(threads) mla_decode_kernel(const MlaDecode p) {
  using S = Shape<Format>;
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  const SharedAddress stages = shared_address(shared);
  auto* exchange = reinterpret_cast<float*>(shared + S::scores_offset);
  Place at{p.pieces[blockIdx.y], static_cast<int>(blockIdx.x) * mla_plain_heads, 0, 0};
  at.heads = p.heads - at.first_head < mla_plain_heads ? p.heads - at.first_head : mla_plain_heads;
  const int tokens = at.piece.end - at.piece.first;
  at.tiles = (tokens + tile_tokens - 1) / tile_tokens;
  std::int64_t rows_of_next = rows_of_tile(p, at, 0);
  const SharedAddress queries = stages + S::queries_offset;
  load_queries(p, at, queries);
  const float factor =
      p.softmax_scale * 1.4426950408889634F * (Format == LatentFormat::fp8 ? p.kv.scale : 1.0F);  // log2 e
  SoftmaxRows<dims_of_warp> rows;
  rows.clear();
  TileInRegisters<Format> next;
  const auto load = [&](int tile) {  // tiles in order
    if (tile < at.tiles) {
      const int left = tokens - tile * tile_tokens;
      if constexpr (S::runs_ahead) {
        const SharedAddress to = stages + static_cast<unsigned>(tile % S::stages * S::stage_bytes);
        for_chunks<Format>(p, rows_of_next, left,
                           [&](int, unsigned token, unsigned chunk, const unsigned char* row, bool valid) {
                             copy_async(to + Tile::offset(token, chunk), row + chunk * 16, valid);
                           });
      } else {
        next.load(p, rows_of_next, left);
      }
      rows_of_next = rows_of_tile(p, at, tile + 1 < at.tiles ? tile + 1 : tile);
    }
    copy_async_commit();
  };
  load(0);
  for (int tile = 0; tile < at.tiles; tile++) {
    const SharedAddress stage = stages + static_cast<unsigned>(tile % S::stages * S::stage_bytes);
    if constexpr (!S::runs_ahead) {
      gpu_barrier();  // all are through with the tile before
      next.lay_down(shared);
    }
    copy_async_wait<0>();
    gpu_barrier();
    load(tile + 1);
    MatrixTile half;
    score_half(queries, stage, half);
    float scores[2 * tile_parts][4];
    share_scores(half, exchange, tokens - tile * tile_tokens, factor, scores);
    rows.exponentials(scores);
    add_values(scores, stage, rows);
  }
  store_rows(p, at, rows);
}

template <LatentFormat Format>
void launch_format(const MlaDecode& p, void* stream) {
  launch_shared(mla_decode_kernel<Format>,
                {gpu_blocks_for(p.heads, mla_plain_heads), static_cast<unsigned>(p.piece_count)}, threads,
                Shape<Format>::shared_bytes, stream, p);
  launch_merge<latent_width, 4>({p.merges, p.partial, p.partial_log_sum, p.out, p.merge_count, p.heads},
                                stream);
}

}  // namespace

void mla_decode(const MlaDecode& problem, void* stream) {
  if (problem.piece_count == 0) return;
  switch (problem.kv.format) {
    case LatentFormat::bf16: return launch_format<LatentFormat::bf16>(problem, stream);
    case LatentFormat::fp8: return launch_format<LatentFormat::fp8>(problem, stream);
    case LatentFormat::packed: return launch_format<LatentFormat::packed>(problem, stream);
  }
}

}  // namespace orrery::kernels
