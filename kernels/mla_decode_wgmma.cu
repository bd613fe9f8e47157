// Absorbed latent attention with Hopper's wgmma. A block takes a piece of a sequence for 64 query heads, 64
// tokens at a time, which lie in shared memory once: as keys and, their first 512 dimensions, as values. Two
// warpgroups multiply, a third brings tokens (FlashMLA's division of the work, after its description in
// deepseek-ai/FlashMLA, docs/20250422-new-kernel-deep-dive.md: an output of 64 × 512 in fp32 fills the
// registers of two warpgroups, so each has half of its columns, and only one tile of scores fits beside it).
// The first scores all 64 × 64, takes the softmax and leaves weights in shared memory for the second; while
// the second still multiplies values, the first is at the next tile's keys.
//
// Tokens come by tensor copies, block by block of a paged bf16 cache; row by row by cp.async where blocks do
// not divide tiles or tokens were picked; and through registers, from eight bits to bf16, elsewhere.
#include <type_traits>

#include "kernels/attention_fragments.h"
#include "kernels/attention_merge.h"
#include "kernels/latent_rows.h"
#include "kernels/mla_decode.h"
#include "kernels/tensor_map.h"
#include "kernels/wgmma.h"

namespace orrery::kernels {
namespace mla_wgmma {  // named: on sm_89 much of it is unused, which the compiler reports of unnamed ones

enum class Source : std::uint8_t { boxes, rows, fp8, packed };

constexpr int tile_tokens = 64, parts = latent_key / 64, stages = 2, threads = 3 * 128;
constexpr int part_bytes = 64 * 128, tile_bytes = parts * part_bytes;  // 64 dimensions of 64 rows
constexpr int keys_offset = tile_bytes;                                // behind the queries, as large
constexpr int weights_offset = keys_offset + stages * tile_bytes;      // 64 × 64 bf16
constexpr int factors_offset = weights_offset + part_bytes;            // a float a head
constexpr int barriers_offset = factors_offset + 64 * 4, shared_bytes = barriers_offset + 2 * stages * 8;
enum Meeting : int { scorers = 1, weights_ready, weights_taken };

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct Ring {
  SharedAddress base;
  unsigned slot = 0, parity = 0;

  GPU_DEVICE_MEMBER explicit Ring(SharedAddress shared) : base(shared) {}
  GPU_DEVICE_MEMBER SharedAddress tile() const { return base + keys_offset + slot * tile_bytes; }
  GPU_DEVICE_MEMBER SharedAddress filled() const { return base + barriers_offset + slot * 16; }
  GPU_DEVICE_MEMBER SharedAddress emptied() const { return filled() + 8; }
  GPU_DEVICE_MEMBER void advance() {
    if (++slot == stages) {
      slot = 0;
      parity ^= 1U;
    }
  }
};

struct Place {
  DecodePiece piece;
  int first_head, heads, tokens, tiles;
};

GPU_DEVICE SharedAddress chunk_address(SharedAddress tile, unsigned row, unsigned chunk) {
  return tile + chunk / 8 * part_bytes + swizzled_128(row, chunk % 8);
}

// --- the warpgroup that brings tokens

// By one warp: a box of 64 dimensions of the rows of a block of the cache that lie together.
GPU_DEVICE void bring_boxes(const CUtensorMap* map, const MlaDecode& p, const Place& at, Ring ring) {
  const int box_rows = p.kv.block_size < tile_tokens ? p.kv.block_size : tile_tokens;
  const int boxes = tile_tokens / box_rows * parts;
  for (int tile = 0; tile < at.tiles; tile++) {
    if (gpu_lane() == 0) {
      barrier_wait(ring.emptied(), ring.parity ^ 1U);
      barrier_expect(ring.filled(), tile_bytes);
    }
    warp_sync();
    for (int i = static_cast<int>(gpu_lane()); i < boxes; i += GPU_WARP) {
      const int part = i % parts, row = i / parts * box_rows, token = at.piece.first + tile * tile_tokens + row;
      // Behind the last block any will do: scores there are masked and values cleared.
      const bool there = token < at.piece.end;
      const std::int64_t from = latent_row(p.kv, at.piece.sequence, there ? token : at.piece.first);
      copy_box(ring.tile() + static_cast<unsigned>(part * part_bytes + row * 128), map, part * 64,
               static_cast<int>(from), ring.filled());
    }
    ring.advance();
  }
}

// Eight threads a row, 16 rows at a time; −1 behind the last token.
struct RowsOfThread {
  std::int32_t row[4];

  GPU_DEVICE_MEMBER void find(const MlaDecode& p, const Place& at, int tile, int first) {
    GPU_UNROLL for (int i = 0; i < 4; i++) {
      const int token = at.piece.first + tile * tile_tokens + first + 16 * i;
      row[i] = token < at.piece.end ? static_cast<std::int32_t>(latent_row(p.kv, at.piece.sequence, token)) : -1;
    }
  }
  GPU_DEVICE_MEMBER bool valid(int i) const { return row[i] >= 0; }
  template <LatentFormat Format>
  GPU_DEVICE_MEMBER const unsigned char* address(const LatentKv& kv, int i) const {
    return static_cast<const unsigned char*>(kv.rows) + std::int64_t{valid(i) ? row[i] : 0} * latent_bytes<Format>;
  }
};

GPU_DEVICE void arrive_when_copied(SharedAddress barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

GPU_DEVICE void bring_rows(const MlaDecode& p, const Place& at, Ring ring) {
  const unsigned thread = threadIdx.x % 128, first = thread / 8, lane = thread % 8;
  RowsOfThread next;
  next.find(p, at, 0, static_cast<int>(first));
  for (int tile = 0; tile < at.tiles; tile++) {
    const RowsOfThread rows = next;
    if (tile + 1 < at.tiles) next.find(p, at, tile + 1, static_cast<int>(first));
    barrier_wait(ring.emptied(), ring.parity ^ 1U);
    GPU_UNROLL for (unsigned i = 0; i < 4; i++) {
      const unsigned char* from = rows.address<LatentFormat::bf16>(p.kv, static_cast<int>(i)) + lane * 16;
      const SharedAddress to = ring.tile() + swizzled_128(first + 16 * i, lane);
      GPU_UNROLL for (unsigned part = 0; part < parts; part++) {
        copy_async(to + part * part_bytes, from + part * 128, rows.valid(static_cast<int>(i)));
      }
    }
    arrive_when_copied(ring.filled());
    ring.advance();
  }
}

// A row of the eight that a thread has a share of: of each 128 elements 16, with their scale, and eight
// rotary ones.
template <Source From>
struct StoredShare {
  static constexpr int chunks = From == Source::packed ? 4 : 5;
  GpuBytes16 eights[chunks], rotary, scales;

  GPU_DEVICE_MEMBER void load(const unsigned char* row, unsigned lane, bool valid) {
    GPU_UNROLL for (unsigned i = 0; i < 4; i++) eights[i] = load_or_zeros(row + (lane + 8 * i) * 16, valid);
    if constexpr (From == Source::packed) {
      scales = load_or_zeros(row + latent_scales_at, valid);
      rotary = load_or_zeros(row + latent_rotary_at + lane * 16, valid);
    } else {
      eights[4] = load_or_zeros(row + latent_width + lane % 4 * 16, valid);
    }
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* tile, unsigned row, unsigned lane) const {
    GPU_UNROLL for (unsigned i = 0; i < chunks; i++) {
      if (i == 4 && lane >= 4) break;
      const float scale = From == Source::packed ? gpu_bit_cast<float>(scales.word[i % 4]) : 1.0F;
      const LatentSixteen sixteen = unpack_latent(eights[i], scale);
      GPU_UNROLL for (unsigned half = 0; half < 2; half++) {
        gpu_store(tile + chunk_address(0, row, 2 * (lane + 8 * i) + half), 0, sixteen.half[half]);
      }
    }
    if constexpr (From == Source::packed) {
      gpu_store(tile + chunk_address(0, row, latent_width / 8 + lane), 0, rotary);
    }
  }
};

GPU_DEVICE void prefetch(const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

template <Source From>
GPU_DEVICE void bring_eight_bits(const MlaDecode& p, const Place& at, unsigned char* shared, Ring ring) {
  constexpr LatentFormat format = From == Source::packed ? LatentFormat::packed : LatentFormat::fp8;
  const unsigned thread = threadIdx.x % 128, first = thread / 8, lane = thread % 8;
  RowsOfThread rows, next;
  next.find(p, at, 0, static_cast<int>(first));
  StoredShare<From> share, after;
  share.load(next.address<format>(p.kv, 0), lane, next.valid(0));
  for (int tile = 0; tile < at.tiles; tile++) {
    rows = next;
    if (tile + 1 < at.tiles) {
      next.find(p, at, tile + 1, static_cast<int>(first));
      // Registers hold a row ahead; the rest of the next tile waits in L2.
      GPU_UNROLL for (int i = 0; i < 4; i++) {
        if (lane * 128 < latent_bytes<format>) prefetch(next.address<format>(p.kv, i) + lane * 128);
      }
    }
    barrier_wait(ring.emptied(), ring.parity ^ 1U);
    unsigned char* to = shared + (ring.tile() - ring.base);
    GPU_UNROLL for (int i = 0; i < 4; i++) {
      const RowsOfThread& of = i < 3 ? rows : next;
      after.load(of.address<format>(p.kv, (i + 1) % 4), lane, of.valid((i + 1) % 4));
      share.lay_down(to, first + 16 * static_cast<unsigned>(i), lane);
      share = after;
    }
    async_proxy_fence();
    barrier_arrive(ring.filled());
    ring.advance();
  }
}

// --- the warpgroups that multiply

GPU_DEVICE void meet_without_waiting(int id, int count) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

GPU_DEVICE void load_queries(const MlaDecode& p, const Place& at, SharedAddress to) {
  constexpr int chunks = latent_key / 8;
  const std::int64_t first = (std::int64_t{at.piece.sequence} * p.heads + at.first_head) * latent_key;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries) + first;
  for (int index = static_cast<int>(threadIdx.x); index < mla_wgmma_heads * chunks; index += threads) {
    const int row = index / chunks, chunk = index % chunks;
    const bool valid = row < at.heads;
    copy_async(chunk_address(to, static_cast<unsigned>(row), static_cast<unsigned>(chunk)),
               queries + (valid ? row * latent_key + chunk * 8 : 0), valid);
  }
  copy_async_commit();
  copy_async_wait<0>();
  async_proxy_fence();
}

using Scores = float[8][4];
using Output = SoftmaxRows<latent_width / 2>;

GPU_DEVICE void multiply_keys(SharedAddress queries, SharedAddress keys, Scores& scores) {
  wgmma_fence();
  GPU_UNROLL for (unsigned step = 0; step < latent_key / 16; step++) {
    const unsigned part = step / 4 * part_bytes;
    wgmma_bf16(scores, matrix_descriptor(queries + part) + 2 * (step % 4),
               matrix_descriptor(keys + part) + 2 * (step % 4), step > 0 ? 1 : 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// out += weights · 256 dimensions of the values.
GPU_DEVICE void multiply_values(const std::uint32_t (&weights)[4][4], SharedAddress values,
                                float (&out)[32][4]) {
  wgmma_fence();
  GPU_UNROLL for (unsigned step = 0; step < 4; step++) {
    const SharedAddress rows = values + step * 16 * 128;
    wgmma_bf16_transposed<0>(out, weights[step], matrix_descriptor(rows));
    wgmma_bf16_transposed<1>(out, weights[step], matrix_descriptor(rows + part_bytes));
    wgmma_bf16_transposed<2>(out, weights[step], matrix_descriptor(rows + 2 * part_bytes));
    wgmma_bf16_transposed<3>(out, weights[step], matrix_descriptor(rows + 3 * part_bytes));
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// Zeros for the values behind the last token: a weight of 0 times what lies there might be NaN.
GPU_DEVICE void clear_values(unsigned char* tile, int tokens) {
  const int words_of_part = (tile_tokens - tokens) * 32;
  auto* words = reinterpret_cast<std::uint32_t*>(tile);
  for (int i = static_cast<int>(threadIdx.x) % 128; i < latent_width / 64 * words_of_part; i += 128) {
    words[i / words_of_part * (part_bytes / 4) + tokens * 32 + i % words_of_part] = 0;
  }
  async_proxy_fence();
}

// Two rows of the output that a thread shares with three others: where they go.
GPU_DEVICE void store_rows(const MlaDecode& p, const Place& at, int first_dimension, const float (&factor)[2],
                           const float (&out)[32][4]) {
  const int row = static_cast<int>(gpu_warp_index()) % 4 * 16 + static_cast<int>(gpu_lane()) / 4;
  const std::int64_t result = at.piece.slot < 0 ? at.piece.sequence : at.piece.slot;
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    if (row + 8 * half >= at.heads) continue;
    const std::int64_t to = (result * p.heads + at.first_head + row + 8 * half) * latent_width +
                            first_dimension + static_cast<int>(gpu_lane()) % 4 * 2;
    GPU_UNROLL for (int j = 0; j < 32; j++) {
      const float a = out[j][2 * half] * factor[half], b = out[j][2 * half + 1] * factor[half];
      if (at.piece.slot < 0) {
        *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(p.out) + to + 8 * j) =
            gpu_pack_bf16(a, b);
      } else {
        *reinterpret_cast<float2*>(p.partial + to + 8 * j) = make_float2(a, b);
      }
    }
  }
}

// What a row's outputs so far must be multiplied by, and its weights of this tile.
struct Softmax {
  float largest[2], sum[2], factor[2];

  GPU_DEVICE_MEMBER void weigh(Scores& scores) {
    GPU_UNROLL for (int half = 0; half < 2; half++) {
      float most = -gpu_infinity;
      GPU_UNROLL for (int j = 0; j < 8; j++) {
        most = gpu_max(most, gpu_max(scores[j][2 * half], scores[j][2 * half + 1]));
      }
      const float before = largest[half];
      largest[half] = gpu_max(before, gpu_group_max<4>(most));
      const float shift = largest[half] == -gpu_infinity ? 0.0F : largest[half];
      factor[half] = exp2_fast(before - shift);
      sum[half] *= factor[half];
      GPU_UNROLL for (int j = 0; j < 8; j++) {
        GPU_UNROLL for (int c = 2 * half; c < 2 * half + 2; c++) {
          scores[j][c] = exp2_fast(scores[j][c] - shift);
          sum[half] += scores[j][c];
        }
      }
    }
  }
};

// To base-2 units; −∞ behind the last token.
GPU_DEVICE void scale_and_mask(int tokens, float factor, Scores& scores) {
  const int left = tokens - static_cast<int>(gpu_lane()) % 4 * 2;
  GPU_UNROLL for (int j = 0; j < 8; j++) {
    GPU_UNROLL for (int c = 0; c < 4; c++) {
      scores[j][c] = 8 * j + c % 2 < left ? scores[j][c] * factor : -gpu_infinity;
    }
  }
}

GPU_DEVICE void multiply_rows(const float (&factor)[2], float (&out)[32][4]) {
  if (gpu_ballot(factor[0] != 1.0F || factor[1] != 1.0F) == 0) return;
  GPU_UNROLL for (int j = 0; j < 32; j++) {
    GPU_UNROLL for (int c = 0; c < 4; c++) out[j][c] *= factor[c / 2];
  }
}

// Row and place of a thread's factors and weights, which only the warp of the same rows reads.
struct Weights {
  SharedAddress base;
  float* factors;
  int row;

  GPU_DEVICE_MEMBER Weights(unsigned char* shared)
      : base(shared_address(shared + weights_offset)),
        factors(reinterpret_cast<float*>(shared + factors_offset)),
        row(static_cast<int>(gpu_warp_index()) % 4 * 16) {}

  GPU_DEVICE_MEMBER void leave(const std::uint32_t (&weights)[4][4], const float (&factor)[2]) const {
    const int g = static_cast<int>(gpu_lane()) / 4, t = static_cast<int>(gpu_lane()) % 4;
    GPU_UNROLL for (int i = 0; i < 16; i++) {  // word i: columns 8 (i / 2) + 2 t, of row g or g + 8
      const auto at = static_cast<unsigned>(row + g + 8 * (i % 2));
      const SharedAddress to = base + swizzled_128(at, static_cast<unsigned>(i / 2)) + 4U * static_cast<unsigned>(t);
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(weights[i / 4][i % 4]) : "memory");
    }
    if (t == 0) {
      factors[row + g] = factor[0];
      factors[row + g + 8] = factor[1];
    }
  }
  GPU_DEVICE_MEMBER void take(std::uint32_t (&weights)[4][4], float (&factor)[2]) const {
    const unsigned lane = gpu_lane();
    GPU_UNROLL for (unsigned step = 0; step < 4; step++) {
      load_matrix_x4(weights[step],
                     base + swizzled_128(static_cast<unsigned>(row) + lane % 16, 2 * step + lane / 16));
    }
    factor[0] = factors[row + static_cast<int>(lane) / 4];
    factor[1] = factors[row + static_cast<int>(lane) / 4 + 8];
  }
};

// The first warpgroup: scores, softmax, and the left half of the output.
template <Source From>
GPU_DEVICE void score_and_multiply(const MlaDecode& p, const Place& at, unsigned char* shared, Ring ring) {
  const float scale = p.softmax_scale * 1.4426950408889634F * (From == Source::fp8 ? p.kv.scale : 1.0F);
  const Weights exchange(shared);
  float out[32][4] = {};
  Softmax rows{{-gpu_infinity, -gpu_infinity}, {0, 0}, {1, 1}};
  for (int tile = 0; tile < at.tiles; tile++) {
    const int tokens = at.tokens - tile * tile_tokens;
    Scores scores;
    barrier_wait(ring.filled(), ring.parity);
    if constexpr (From == Source::rows) async_proxy_fence();  // cp.async writes as threads do
    multiply_keys(ring.base, ring.tile(), scores);
    scale_and_mask(tokens, scale, scores);
    rows.weigh(scores);
    std::uint32_t weights[4][4];
    GPU_UNROLL for (int i = 0; i < 16; i++) {
      const float(&from)[4] = scores[i / 2];
      weights[i / 4][i % 4] = gpu_pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
    if (tokens < tile_tokens) {
      meet(scorers, 128);  // all have read the keys
      clear_values(shared + (ring.tile() - ring.base), tokens);
    }
    if (tile > 0) meet(weights_taken, 256);
    exchange.leave(weights, rows.factor);
    meet_without_waiting(weights_ready, 256);
    if (tokens < tile_tokens) meet(scorers, 128);
    multiply_rows(rows.factor, out);
    multiply_values(weights, ring.tile(), out);
    if (gpu_lane() == 0) barrier_arrive(ring.emptied());
    ring.advance();
  }
  const float of_values = From == Source::fp8 ? p.kv.scale : 1.0F;
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    rows.sum[half] = gpu_group_sum<4>(rows.sum[half]);
    rows.factor[half] = of_values / rows.sum[half];
  }
  const std::uint32_t nothing[4][4] = {};
  meet(weights_taken, 256);
  exchange.leave(nothing, rows.factor);
  meet_without_waiting(weights_ready, 256);
  store_rows(p, at, 0, rows.factor, out);
  if (at.piece.slot < 0 || gpu_lane() % 4 != 0) return;
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    const int row = exchange.row + static_cast<int>(gpu_lane()) / 4 + 8 * half;
    if (row < at.heads) {
      p.partial_log_sum[std::int64_t{at.piece.slot} * p.heads + at.first_head + row] =
          rows.largest[half] + gpu_log2(rows.sum[half]);
    }
  }
}

// The second: the right half.
template <Source From>
GPU_DEVICE void multiply_only(const MlaDecode& p, const Place& at, unsigned char* shared, Ring ring) {
  const Weights exchange(shared);
  float out[32][4] = {};
  std::uint32_t weights[4][4];
  float factor[2];
  for (int tile = 0; tile < at.tiles; tile++) {
    meet(weights_ready, 256);
    exchange.take(weights, factor);
    meet_without_waiting(weights_taken, 256);
    multiply_rows(factor, out);
    barrier_wait(ring.filled(), ring.parity);
    if constexpr (From == Source::rows) async_proxy_fence();
    multiply_values(weights, ring.tile() + 4 * part_bytes, out);
    if (gpu_lane() == 0) barrier_arrive(ring.emptied());
    ring.advance();
  }
  meet(weights_ready, 256);
  exchange.take(weights, factor);
  store_rows(p, at, latent_width / 2, factor, out);
}

#endif

template <Source From>
__global__ void __launch_bounds__(threads, 1)
    mla_wgmma_kernel(const __grid_constant__ CUtensorMap cache, const __grid_constant__ MlaDecode p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ORRERY_DYNAMIC_SHARED(shared, shared_bytes);
  Ring ring(shared_address(shared));
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < stages; i++) {
      const SharedAddress barrier = ring.base + barriers_offset + i * 16;
      barrier_init(barrier, From == Source::boxes ? 1 : 128);  // filled
      barrier_init(barrier + 8, 8);                            // emptied: every warp that multiplies
    }
    barrier_init_fence();
  }
  Place at{p.pieces[blockIdx.y], static_cast<int>(blockIdx.x) * mla_wgmma_heads, 0, 0, 0};
  at.heads = p.heads - at.first_head < mla_wgmma_heads ? p.heads - at.first_head : mla_wgmma_heads;
  at.tokens = at.piece.end - at.piece.first;
  at.tiles = (at.tokens + tile_tokens - 1) / tile_tokens;
  load_queries(p, at, ring.base);
  gpu_barrier();
  const unsigned group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<96>();
    if constexpr (From == Source::boxes) {
      if (gpu_warp_index() % 4 == 0) bring_boxes(&cache, p, at, ring);
    } else if constexpr (From == Source::rows) {
      bring_rows(p, at, ring);
    } else {
      bring_eight_bits<From>(p, at, shared, ring);
    }
  } else {
    take_registers<208>();
    if (group == 0) {
      score_and_multiply<From>(p, at, shared, ring);
    } else {
      multiply_only<From>(p, at, shared, ring);
    }
  }
#endif
}

// Boxes of 64 dimensions of as many rows as lie together, up to a tile.
CUtensorMap cache_map(const LatentKv& kv) {
  TensorMapShape shape;
  shape.extent[0] = latent_key;
  shape.extent[1] = static_cast<cuuint64_t>(kv.blocks) * static_cast<cuuint64_t>(kv.block_size);
  shape.stride[0] = latent_key * 2;
  shape.box[0] = 64;
  shape.box[1] = static_cast<cuuint32_t>(kv.block_size < tile_tokens ? kv.block_size : tile_tokens);
  return tensor_map(kv.rows, shape);
}

Source source_of(const LatentKv& kv) {
  if (kv.format == LatentFormat::fp8) return Source::fp8;
  if (kv.format == LatentFormat::packed) return Source::packed;
  // Boxes begin at patterns of eight rows, and more than some of them a tile cost more than rows do.
  const bool boxes = kv.picks == nullptr && (kv.block_size % tile_tokens == 0 ||
                                             (kv.block_size >= 8 && tile_tokens % kv.block_size == 0));
  return boxes ? Source::boxes : Source::rows;
}

template <Source From>
void launch_from(const MlaDecode& p, void* stream) {
  static_cast<void>(cudaFuncSetAttribute(mla_wgmma_kernel<From>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         shared_bytes));
  const dim3 grid(gpu_blocks_for(p.heads, mla_wgmma_heads), static_cast<unsigned>(p.piece_count));
  mla_wgmma_kernel<From><<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      From == Source::boxes ? cache_map(p.kv) : CUtensorMap{}, p);
}

}  // namespace mla_wgmma

const char* mla_decode_wgmma_refusal() { return wgmma_refusal(); }

void mla_decode_wgmma(const MlaDecode& problem, void* stream) {
  if (problem.piece_count == 0) return;
  using mla_wgmma::Source;
  switch (mla_wgmma::source_of(problem.kv)) {
    case Source::boxes: mla_wgmma::launch_from<Source::boxes>(problem, stream); break;
    case Source::rows: mla_wgmma::launch_from<Source::rows>(problem, stream); break;
    case Source::fp8: mla_wgmma::launch_from<Source::fp8>(problem, stream); break;
    case Source::packed: mla_wgmma::launch_from<Source::packed>(problem, stream); break;
  }
  launch_merge<latent_width, 4>({problem.merges, problem.partial, problem.partial_log_sum, problem.out,
                                 problem.merge_count, problem.heads},
                                stream);
}

}  // namespace orrery::kernels
