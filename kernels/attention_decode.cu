// Paged decode attention. A block of four warps takes a piece of a sequence's context for one KV head; the
// query heads of that KV head (up to 16) are the rows of one tile, so that keys and values are read once.
// Each warp walks over 16-token blocks of its own with a pipeline of its own: no barrier until the warps
// merge at the end. Bytes in flight decide, with cp.async 24 KiB a warp, two thirds of it under way, without
// it the next block in registers; and, since a scheduler has two warps, how long the chain of dependent
// instructions is, so that two blocks of e4m3 are taken at once (5 % faster on an H200).
#include "kernels/attention_decode.h"

#include "kernels/attention_fragments.h"
#include "kernels/attention_merge.h"
#include "kernels/gpu_runtime.h"
#include "kernels/matrix_tile.h"

namespace orrery::kernels {
namespace {

constexpr int decode_warps = 4, decode_threads = GPU_WARP * decode_warps;
constexpr int tokens_at_once = 16 * decode_warps;  // by all warps

template <int HeadDim, bool Fp8>
struct DecodeShape {
  using Tile = HeadTile<HeadDim, Fp8>;
  // Of e4m3 a turn takes two: half as many chains of dependent instructions for the same bytes.
  static constexpr int turn_tiles = copies_run_ahead && Fp8 ? 2 : 1;
  static constexpr int tile_bytes = 2 * Tile::bytes, stage_bytes = turn_tiles * tile_bytes;
  static constexpr int stages = !copies_run_ahead             ? 1
                                : 24 * 1024 / stage_bytes > 8 ? 8
                                                              : 24 * 1024 / stage_bytes;
  // The merge of the warps reuses the pipeline's memory.
  static constexpr int merge_bytes = (16 * (HeadDim + 2) * 4 + 127) / 128 * 128;
  static constexpr int warp_bytes = stages * stage_bytes > merge_bytes ? stages* stage_bytes : merge_bytes;
  static constexpr int shared_bytes = decode_warps * warp_bytes;
};

// Block numbers of this warp's tiles, one a lane at a time, the next as many already asked for.
struct BlockNumbers {
  const std::int32_t* table;
  int tiles, current, next;

  GPU_DEVICE_MEMBER int fetch(int turn) const {
    const int tile =
        static_cast<int>(gpu_warp_index()) + decode_warps * (turn + static_cast<int>(gpu_lane()));
    return tile < tiles ? table[tile] : 0;
  }
  GPU_DEVICE_MEMBER void start(const std::int32_t* from, int count) {
    table = from;
    tiles = count;
    current = fetch(0);
    next = fetch(GPU_WARP);
  }
  // Turns come in order.
  GPU_DEVICE_MEMBER int of(int turn) {
    if (turn % GPU_WARP == 0 && turn > 0) {
      current = next;
      next = fetch(turn + GPU_WARP);
    }
    return gpu_shuffle(current, static_cast<unsigned>(turn % GPU_WARP));
  }
};

// A tile's 16-byte chunks that this lane copies, one of keys and one of values each turn; what counts of them
// is `valid`, and they land at `to` in the stage's keys and values.
struct TileChunk {
  std::uint32_t key_to, value_to;
  const unsigned char *key, *value;
  bool key_valid, value_valid;
};
template <int HeadDim, bool Fp8, KvLayout Layout, class Copy>
GPU_DEVICE void for_tokens(const AttentionDecode& p, int kv_head, std::int64_t block, int tokens, Copy copy) {
  using Tile = HeadTile<HeadDim, Fp8>;
  constexpr bool plain = Layout == KvLayout::plain;
  const std::int64_t token_bytes = static_cast<std::int64_t>(p.kv_heads) * Tile::row_bytes;
  // A head's part of a vectorised block lies together.
  const std::int64_t start = block * kv_block_tokens * token_bytes +
                             static_cast<std::int64_t>(kv_head) * (plain ? Tile::row_bytes : Tile::bytes);
  const auto* keys = static_cast<const unsigned char*>(p.kv.keys) + start;
  const auto* values = static_cast<const unsigned char*>(p.kv.values) + start;
  const std::uint32_t lane = fresh(gpu_lane());
  constexpr int rows_at_once = GPU_WARP / Tile::chunks;
  const int first_token = static_cast<int>(lane) / Tile::chunks,
            chunk = static_cast<int>(lane) % Tile::chunks;
  std::int64_t at = first_token * token_bytes + chunk * 16;
  GPU_UNROLL for (int i = 0; i < 16 * Tile::chunks / GPU_WARP; i++) {
    if constexpr (plain) {
      const int token = first_token + rows_at_once * i;
      const bool valid = token < tokens;  // the block of tokens is there to its end
      const std::uint32_t to = Tile::offset(static_cast<unsigned>(token), static_cast<unsigned>(chunk));
      copy(i, TileChunk{to, to, keys + at, values + at, valid, valid});
      at += rows_at_once * token_bytes;
    } else {
      const int index = static_cast<int>(lane) + GPU_WARP * i;
      using Vectors = VectorTile<Fp8>;
      const int token = index % 16, first = index / HeadDim * Vectors::of_chunk;  // of a key, of values
      copy(i, TileChunk{Tile::offset(static_cast<unsigned>(Vectors::column(token)),
                                     static_cast<unsigned>(index / 16)),
                        static_cast<std::uint32_t>(index * 16), keys + index * 16, values + index * 16,
                        token < tokens, first < tokens});
    }
  }
}

template <int HeadDim, bool Fp8, KvLayout Layout>
GPU_DEVICE void load_tokens(const AttentionDecode& p, int kv_head, std::int64_t block, int tokens,
                            SharedAddress stage) {
  for_tokens<HeadDim, Fp8, Layout>(p, kv_head, block, tokens, [&](int, const TileChunk& c) {
    copy_async(stage + c.key_to, c.key, c.key_valid);
    copy_async(stage + HeadTile<HeadDim, Fp8>::bytes + c.value_to, c.value, c.value_valid);
  });
}

// The tile that comes next, in registers: its loads are under way while the one before is attended to.
template <int HeadDim, bool Fp8, KvLayout Layout>
struct TokensInRegisters {
  static constexpr int copies = 16 * HeadTile<HeadDim, Fp8>::chunks / GPU_WARP;
  GpuBytes16 key[copies], value[copies];

  GPU_DEVICE_MEMBER void load(const AttentionDecode& p, int kv_head, std::int64_t block, int tokens) {
    for_tokens<HeadDim, Fp8, Layout>(p, kv_head, block, tokens, [&](int i, const TileChunk& c) {
      key[i] = load_or_zeros(c.key, c.key_valid);
      value[i] = load_or_zeros(c.value, c.value_valid);
    });
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* stage) const {
    using Tile = HeadTile<HeadDim, Fp8>;
    const std::uint32_t lane = fresh(gpu_lane());
    GPU_UNROLL for (int i = 0; i < copies; i++) {
      const unsigned index = lane + GPU_WARP * static_cast<unsigned>(i);
      if constexpr (Layout == KvLayout::plain) {
        const std::uint32_t to = Tile::offset(index / Tile::chunks, index % Tile::chunks);
        gpu_store(stage + to, 0, key[i]);
        gpu_store(stage + Tile::bytes + to, 0, value[i]);
      } else {
        const auto column = VectorTile<Fp8>::column(static_cast<int>(index % 16));
        gpu_store(stage + Tile::offset(static_cast<unsigned>(column), index / 16), 0, key[i]);
        gpu_store(stage + Tile::bytes + index * 16, 0, value[i]);
      }
    }
  }
};

// Exponentials of a tile as its values' left operand: of f16 where e4m3 become that.
template <bool Fp8, int Parts>
GPU_DEVICE void pack_tile(const float (&scores)[Parts][4], int part, std::uint32_t (&weights)[weight_words]) {
#if ORRERY_MATRIX_TARGET == 0
  if constexpr (Fp8) {
    GPU_UNROLL for (int i = 0; i < weight_words; i++) {
      const float(&from)[4] = scores[part + i / 2];
      weights[i] = pack_f16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
    return;
  }
#endif
  pack_weights(scores, part, weights);
}

// A turn: tiles of a warp one behind the other in its memory, of which the first has `tokens` left of the
// piece, each next one as many fewer as the warps take at once.
template <int HeadDim, bool Fp8, KvLayout Layout>
GPU_DEVICE void attend_turn(const QueryFragments<HeadDim, Fp8>& queries,
                            const float (&factor)[tile_rows_held], int tokens, SharedAddress stage,
                            SoftmaxRows<HeadDim>& rows) {
  using Shape = DecodeShape<HeadDim, Fp8>;
  float scores[Shape::turn_tiles * tile_parts][4];
  GPU_UNROLL for (int tile = 0; tile < Shape::turn_tiles; tile++) {
    MatrixTile products;
    multiply_keys<HeadDim, Fp8>(queries, stage + static_cast<unsigned>(tile * Shape::tile_bytes), products);
    GPU_UNROLL for (int i = 0; i < tile_parts; i++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) {
        const int token =
            Layout == KvLayout::plain ? tile_column(i, c) : VectorTile<Fp8>::token(tile_column(i, c));
        scores[tile * tile_parts + i][c] = token < tokens - tile * tokens_at_once
                                               ? products.value[i][c] * factor[tile_held(c)]
                                               : -gpu_infinity;
      }
    }
  }
  rows.exponentials(scores);
  GPU_UNROLL for (int tile = 0; tile < Shape::turn_tiles; tile++) {
    std::uint32_t weights[weight_words];
    pack_tile<Fp8>(scores, tile * tile_parts, weights);
    const SharedAddress values =
        stage + static_cast<unsigned>(tile * Shape::tile_bytes + HeadTile<HeadDim, Fp8>::bytes);
    if constexpr (Layout == KvLayout::plain) {
      multiply_values<HeadDim, Fp8>(weights, values, rows.out);
    } else {
      multiply_vectors<HeadDim, Fp8>(weights, values, tokens - tile * tokens_at_once, rows.out);
    }
  }
}

// Each warp's rows, then sums of exponentials and maxima, in shared memory.
template <int HeadDim, bool Fp8, KvLayout Layout>
GPU_DEVICE void lay_down_rows(float* warp_memory, const SoftmaxRows<HeadDim>& rows) {
  GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
    const int row = tile_row(half);
    GPU_UNROLL for (int j = 0; j < SoftmaxRows<HeadDim>::parts; j++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) {
        if (tile_held(c) != half) continue;
        warp_memory[row * HeadDim + HeadTile < HeadDim,
                    Fp8 && Layout == KvLayout::plain > ::dimension(j, c)] = rows.out[j][c];
      }
    }
    if (tile_row_first()) {
      warp_memory[16 * HeadDim + row] = rows.largest[half];
      warp_memory[16 * HeadDim + 16 + row] = rows.sum[half];
    }
  }
}

template <int HeadDim, bool Fp8>
GPU_DEVICE void merge_warps(const AttentionDecode& p, const DecodePiece& piece, int first_head, int heads,
                            const float* memory) {
  constexpr int stride = DecodeShape<HeadDim, Fp8>::warp_bytes / 4;
  for (int index = static_cast<int>(threadIdx.x); index < heads * HeadDim; index += decode_threads) {
    const int row = index / HeadDim, dimension = index % HeadDim;
    float largest = -gpu_infinity, sum = 0, value = 0;
    GPU_UNROLL for (int w = 0; w < decode_warps; w++) {
      largest = gpu_max(largest, memory[w * stride + 16 * HeadDim + row]);
    }
    GPU_UNROLL for (int w = 0; w < decode_warps; w++) {
      const float* of_warp = memory + w * stride;
      // A warp without tokens has nothing to add, whatever the others' maximum is.
      const bool any = of_warp[16 * HeadDim + 16 + row] != 0.0F;
      const float factor = any ? gpu_exp2(of_warp[16 * HeadDim + row] - largest) : 0.0F;
      sum += of_warp[16 * HeadDim + 16 + row] * factor;
      value += of_warp[row * HeadDim + dimension] * factor;
    }
    value *= p.kv.value_scale / sum;
    const std::int64_t head = first_head + row;
    if (piece.slot < 0) {
      const std::int64_t at =
          (static_cast<std::int64_t>(piece.sequence) * p.heads + head) * HeadDim + dimension;
      static_cast<std::uint16_t*>(p.out)[at] = gpu_to_bf16(value);
    } else {
      const std::int64_t at = static_cast<std::int64_t>(piece.slot) * p.heads + head;
      p.partial[at * HeadDim + dimension] = value;
      if (dimension == 0) p.partial_log_sum[at] = largest + gpu_log2(sum);
    }
  }
}

// What a block of threads works on.
struct DecodePlace {
  DecodePiece piece;
  int kv_head, first_head, heads;
};

// A warp's tiles of the piece, one after the other, through `memory` of its own.
template <int HeadDim, bool Fp8, KvLayout Layout>
GPU_DEVICE void attend_piece(const AttentionDecode& p, const DecodePlace& at, unsigned char* memory,
                             SoftmaxRows<HeadDim>& rows) {
  using Shape = DecodeShape<HeadDim, Fp8>;
  const DecodePiece& piece = at.piece;
  const int kv_head = at.kv_head, warp = static_cast<int>(gpu_warp_index()), tokens = piece.end - piece.first;
  const int tiles = (tokens + 15) / 16;
  const SharedAddress ring = shared_address(memory);
  BlockNumbers blocks;
  blocks.start(p.kv.block_table + piece.sequence * p.kv.table_stride + piece.first / kv_block_tokens, tiles);
  QueryFragments<HeadDim, Fp8> queries;
  const auto* query_rows = static_cast<const std::uint16_t*>(p.queries);
  const std::int64_t first_query =
      (static_cast<std::int64_t>(piece.sequence) * p.heads + at.first_head) * HeadDim;
  const float scale = p.softmax_scale * 1.4426950408889634F * p.kv.key_scale;  // log2 e
  rows.clear();
  float factor[tile_rows_held];
  const auto start = [&] {  // once the first loads are under way
    queries.load(query_rows + first_query, HeadDim, at.heads);
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) factor[half] =
        scale * queries.row_factor[half];
  };
  int loading = 0;
  if constexpr (copies_run_ahead) {
    const auto load_next = [&] {  // a turn's tiles; of one that is not there, zeros
      const unsigned stage = static_cast<unsigned>(loading % Shape::stages * Shape::stage_bytes);
      const int first = warp + decode_warps * Shape::turn_tiles * loading;
      GPU_UNROLL for (int i = 0; first < tiles && i < Shape::turn_tiles; i++) {
        const int block = blocks.of(Shape::turn_tiles * loading + i);
        load_tokens<HeadDim, Fp8, Layout>(p, kv_head, block, tokens - 16 * first - i * tokens_at_once,
                                          ring + stage + static_cast<unsigned>(i * Shape::tile_bytes));
      }
      copy_async_commit();
      loading++;
    };
    for (int s = 0; s < Shape::stages - 1; s++) load_next();
    start();
    int slot = 0;
    for (int tile = warp; tile < tiles; tile += decode_warps * Shape::turn_tiles) {
      copy_async_wait<Shape::stages - 2>();
      warp_sync();  // every lane's part of the turn is there, and all are through with the one before
      load_next();
      attend_turn<HeadDim, Fp8, Layout>(queries, factor, tokens - 16 * tile,
                                        ring + static_cast<unsigned>(slot * Shape::stage_bytes), rows);
      slot = slot + 1 == Shape::stages ? 0 : slot + 1;
    }
    copy_async_wait<0>();
  } else {
    TokensInRegisters<HeadDim, Fp8, Layout> next;
    const auto load_next = [&] {
      const int tile = warp + decode_warps * loading;
      if (tile < tiles) next.load(p, kv_head, blocks.of(loading), tokens - 16 * tile);
      loading++;
    };
    load_next();
    start();
    for (int tile = warp; tile < tiles; tile += decode_warps) {
      warp_sync();  // all are through with the tile before
      next.lay_down(memory);
      warp_sync();
      load_next();
      attend_turn<HeadDim, Fp8, Layout>(queries, factor, tokens - 16 * tile, ring, rows);
    }
  }
  rows.finish_sums();
}

template <int HeadDim, bool Fp8, KvLayout Layout>
__global__ void __launch_bounds__(decode_threads) decode_kernel(const AttentionDecode p) {
  using Shape = DecodeShape<HeadDim, Fp8>;
  ORRERY_DYNAMIC_SHARED(shared, Shape::shared_bytes);
  const int group = p.heads / p.kv_heads, group_tiles = (group + 15) / 16;
  // Blocks of the same tokens run side by side: a token's heads lie together in memory (2 % on an H200).
  const int across = p.kv_heads * group_tiles, block = static_cast<int>(blockIdx.x);
  const int kv_head = block % across / group_tiles, in_group = block % group_tiles * 16;
  const DecodePlace at{p.pieces[block / across], kv_head, kv_head * group + in_group,
                       group - in_group < 16 ? group - in_group : 16};
  const int warp = static_cast<int>(gpu_warp_index());
  gpu_let_next_start();  // the kernel that merges pieces
  SoftmaxRows<HeadDim> rows;
  attend_piece<HeadDim, Fp8, Layout>(p, at, shared + warp * Shape::warp_bytes, rows);
  gpu_barrier();
  auto* memory = reinterpret_cast<float*>(shared);
  lay_down_rows<HeadDim, Fp8, Layout>(memory + warp * (Shape::warp_bytes / 4), rows);
  gpu_barrier();
  merge_warps<HeadDim, Fp8>(p, at.piece, at.first_head, at.heads, memory);
}

template <int HeadDim, bool Fp8>
void launch_decode(const AttentionDecode& p, void* stream) {
  const int group = p.heads / p.kv_heads;
  const auto across = static_cast<unsigned>(p.kv_heads * ((group + 15) / 16));
  const auto kernel = p.kv.layout == KvLayout::plain ? decode_kernel<HeadDim, Fp8, KvLayout::plain>
                                                     : decode_kernel<HeadDim, Fp8, KvLayout::vectorised>;
  launch_shared(kernel, {static_cast<unsigned>(p.piece_count) * across}, decode_threads,
                DecodeShape<HeadDim, Fp8>::shared_bytes, stream, p);
  launch_merge<HeadDim, 1>({p.merges, p.partial, p.partial_log_sum, p.out, p.merge_count, p.heads}, stream);
}

}  // namespace

std::int64_t attention_compute_units() { return gpu_compute_units(); }
double attention_weight_rounding(bool fp8_kv) {
  return fp8_kv && ORRERY_MATRIX_TARGET == 0 ? 0x1p-10 : 0x1p-8;
}

void attention_decode(const AttentionDecode& problem, void* stream) {
  if (problem.piece_count == 0) return;
  if (problem.head_dim == 128) {
    problem.fp8_kv ? launch_decode<128, true>(problem, stream) : launch_decode<128, false>(problem, stream);
  } else {
    problem.fp8_kv ? launch_decode<64, true>(problem, stream) : launch_decode<64, false>(problem, stream);
  }
}

}  // namespace orrery::kernels
