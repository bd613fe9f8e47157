// Absorbed latent attention with Hopper's wgmma. A block takes a piece of a sequence for 64 query heads, 64
// tokens at a time, which lie in shared memory once: as keys and, their first 512 dimensions, as values. Two
// warpgroups multiply, a third brings tokens (FlashMLA's division of the work, after its description in
// deepseek-ai/FlashMLA, docs/20250422-new-kernel-deep-dive.md: an output of 64 × 512 in fp32 fills the
// registers of two warpgroups, so each has half of its columns, and only one tile of scores fits beside it).
// The first scores all 64 × 64, takes the softmax and leaves weights in shared memory for the second; while
// the second still multiplies values, the first is at the next tile's keys. Scoring a tile ahead of the
// values was no faster (561 against 568 TFLOP/s with 128 heads on an H200). Two blocks of a cluster, of the
// same tokens and 64 heads each, share copies. How tokens come: mla_wgmma_tokens.h.
#include "kernels/attention_fragments.h"
#include "kernels/attention_merge.h"
#include "kernels/mla_decode.h"
#include "kernels/mla_wgmma_tokens.h"

namespace orrery::kernels {
namespace mla_wgmma {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

GPU_DEVICE void meet_without_waiting(int id, int count) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

template <Source From>
GPU_DEVICE void load_queries(const MlaDecode& p, const Place& at, SharedAddress to) {
  constexpr int chunks = latent_key / 8;
  const std::int64_t first = (std::int64_t{at.piece.sequence} * p.heads + at.first_head) * latent_key;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries) + first;
  for (int index = static_cast<int>(threadIdx.x); index < mla_wgmma_heads * chunks;
       index += threads_of(From)) {
    const int row = index / chunks, chunk = index % chunks;
    const bool valid = row < at.heads;
    copy_async(chunk_address(to, static_cast<unsigned>(row), static_cast<unsigned>(chunk)),
               queries + (valid ? row * latent_key + chunk * 8 : 0), valid);
  }
  copy_async_commit();
  copy_async_wait<0>();
  async_proxy_fence();
}

// As fp16, a warp a row, which is multiplied by a power of two that makes its largest 2¹³ to 2¹⁴: what fp16
// has no exponents for is then nothing beside it. Scores are divided by it.
GPU_DEVICE void load_queries_as_f16(const MlaDecode& p, const Place& at, unsigned char* shared) {
  constexpr int chunks = latent_key / 8, each = (chunks + GPU_WARP - 1) / GPU_WARP;
  const std::int64_t first = (std::int64_t{at.piece.sequence} * p.heads + at.first_head) * latent_key;
  const auto* queries = static_cast<const std::uint16_t*>(p.queries) + first;
  const int lane = static_cast<int>(gpu_lane());
  for (int row = static_cast<int>(gpu_warp_index()); row < mla_wgmma_heads;
       row += threads_of(Source::fp8) / GPU_WARP) {
    GpuBytes16 held[each];
    unsigned most = 0;
    GPU_UNROLL for (int i = 0; i < each; i++) {
      const int chunk = lane + GPU_WARP * i;
      const bool valid = row < at.heads && chunk < chunks;
      held[i] = load_or_zeros(
          reinterpret_cast<const unsigned char*>(queries + (valid ? row * latent_key + chunk * 8 : 0)),
          valid);
      GPU_UNROLL for (int w = 0; w < 4; w++) most =
          max(most, max(held[i].word[w] & 0x7FFFU, held[i].word[w] >> 16 & 0x7FFFU));
    }
    const unsigned exponent = __reduce_max_sync(0xFFFFFFFFU, most) >> 7;  // of the largest, + 127
    const unsigned factor_bits = min(127U + 140U - min(exponent, 255U), 253U);
    const float factor = gpu_bit_cast<float>(factor_bits << 23);
    GPU_UNROLL for (int i = 0; i < each; i++) {
      const int chunk = lane + GPU_WARP * i;
      if (chunk >= chunks) continue;
      GpuBytes16 out;
      GPU_UNROLL for (int w = 0; w < 4; w++) out.word[w] =
          pack_f16(gpu_low_bf16(held[i].word[w]) * factor, gpu_high_bf16(held[i].word[w]) * factor);
      gpu_store(shared + chunk_address(0, static_cast<unsigned>(row), static_cast<unsigned>(chunk)), 0, out);
    }
    if (lane == 0) {
      reinterpret_cast<float*>(shared + query_factors_offset)[row] =
          gpu_bit_cast<float>((254U - factor_bits) << 23);
    }
  }
  async_proxy_fence();
}

using Scores = float[8][4];

// Where an operand begins. Fresh, so that no register keeps what each step adds to it from tile to tile.
GPU_DEVICE std::uint64_t fresh_descriptor(std::uint64_t descriptor) {
  asm volatile("" : "+l"(descriptor));
  return descriptor;
}

// The half that was emptied first is the one that comes first.
template <Source From>
GPU_DEVICE void multiply_keys(SharedAddress queries, const Stage& keys, Scores& scores) {
  const std::uint64_t a = fresh_descriptor(matrix_descriptor(queries)),
                      b = fresh_descriptor(matrix_descriptor(keys.tile));
  GPU_UNROLL for (int half = right; half >= left; half--) {
    keys.wait_filled(half);
    if constexpr (From == Source::rows) async_proxy_fence();  // cp.async writes as threads do
    wgmma_fence();
    GPU_UNROLL for (int step = 0; step < 4 * parts_of(half); step++) {
      const int part = first_part(half) + step / 4;
      const auto inner = static_cast<unsigned>(part * (part_bytes / 16) + step % 4 * 2);
      const int add = half == right && step == 0 ? 0 : 1;
      if constexpr (From == Source::fp8) {
        wgmma_f16(scores, a + inner, b + inner, add);
      } else {
        wgmma_bf16(scores, a + inner, b + inner, add);
      }
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// out += weights · 256 dimensions of the values. With four warpgroups an instruction cannot be as wide: the
// assembler gives it only registers that all threads were launched with.
template <Source From>
GPU_DEVICE void multiply_values(const std::uint32_t (&weights)[4][4], SharedAddress values,
                                float (&out)[32][4]) {
  wgmma_fence();
  if constexpr (groups_of_bringers(From) > 1) {
    constexpr unsigned part = part_bytes / 16;
    const std::uint64_t b = fresh_descriptor(matrix_descriptor(values));
    GPU_UNROLL for (unsigned step = 0; step < 4; step++) {
      wgmma_bf16_transposed<0>(out, weights[step], b + step * 128);
      wgmma_bf16_transposed<1>(out, weights[step], b + step * 128 + part);
      wgmma_bf16_transposed<2>(out, weights[step], b + step * 128 + 2 * part);
      wgmma_bf16_transposed<3>(out, weights[step], b + step * 128 + 3 * part);
    }
  } else {
    const std::uint64_t b = fresh_descriptor(wide_descriptor(values, part_bytes));
    GPU_UNROLL for (unsigned step = 0; step < 4; step++) {
      if constexpr (From == Source::fp8) {
        wgmma_f16_wide(out, weights[step], b + step * 128);
      } else {
        wgmma_bf16_wide(out, weights[step], b + step * 128);
      }
    }
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
          float& score = scores[j][c];
          score = exp2_fast(score - shift);
          sum[half] += score;
        }
      }
    }
  }
};

// To base-2 units; −∞ behind the last token.
GPU_DEVICE void scale_and_mask(int tokens, const float (&factor)[2], Scores& scores) {
  const int left = tokens - static_cast<int>(gpu_lane()) % 4 * 2;
  GPU_UNROLL for (int j = 0; j < 8; j++) {
    GPU_UNROLL for (int c = 0; c < 4; c++) {
      scores[j][c] = 8 * j + c % 2 < left ? scores[j][c] * factor[c / 2] : -gpu_infinity;
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
      const SharedAddress to =
          base + swizzled_128(at, static_cast<unsigned>(i / 2)) + 4U * static_cast<unsigned>(t);
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
GPU_DEVICE void score_and_multiply(const MlaDecode& p, const Place& at, unsigned char* shared,
                                   unsigned blocks) {
  const SharedAddress base = shared_address(shared);
  const Weights exchange(shared);
  float scale[2];
  GPU_UNROLL for (int half = 0; half < 2; half++) {
    scale[half] = p.softmax_scale * 1.4426950408889634F;
    if constexpr (From == Source::fp8) {
      const auto* of_queries = reinterpret_cast<const float*>(shared + query_factors_offset);
      scale[half] *= p.kv.scale * of_queries[exchange.row + static_cast<int>(gpu_lane()) / 4 + 8 * half];
    }
  }
  float out[32][4] = {};
  Softmax rows{{-gpu_infinity, -gpu_infinity}, {0, 0}, {1, 1}};
  for (int tile = 0; tile < at.tiles; tile++) {
    const Stage stage(base, tile);
    const int tokens = at.tokens - tile * tile_tokens;
    Scores scores;
    multiply_keys<From>(base, stage, scores);
    scale_and_mask(tokens, scale, scores);
    rows.weigh(scores);
    std::uint32_t weights[4][4];
    GPU_UNROLL for (int i = 0; i < 16; i++) {
      const float a = scores[i / 2][i % 2 * 2], b = scores[i / 2][i % 2 * 2 + 1];
      weights[i / 4][i % 4] = From == Source::fp8 ? pack_f16(a, b) : gpu_pack_bf16(a, b);
    }
    if (tokens < tile_tokens) {
      meet(scorers, 128);  // all have read the keys
      clear_values(shared + (stage.tile - base), tokens);
    }
    if (tile > 0) meet(weights_taken, 256);
    exchange.leave(weights, rows.factor);
    meet_without_waiting(weights_ready, 256);
    if (tokens < tile_tokens) meet(scorers, 128);
    multiply_rows(rows.factor, out);
    multiply_values<From>(weights, stage.tile, out);
    stage.give_back(left, blocks);
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
GPU_DEVICE void multiply_only(const MlaDecode& p, const Place& at, unsigned char* shared, unsigned blocks) {
  const SharedAddress base = shared_address(shared);
  const Weights exchange(shared);
  float out[32][4] = {};
  std::uint32_t weights[4][4];
  float factor[2];
  for (int tile = 0; tile < at.tiles; tile++) {
    const Stage stage(base, tile);
    meet(weights_ready, 256);
    exchange.take(weights, factor);
    meet_without_waiting(weights_taken, 256);
    multiply_rows(factor, out);
    stage.wait_filled(right);
    if constexpr (From == Source::rows) async_proxy_fence();
    multiply_values<From>(weights, stage.tile + left_parts * part_bytes, out);
    stage.give_back(right, blocks);
  }
  meet(weights_ready, 256);
  exchange.take(weights, factor);
  store_rows(p, at, latent_width / 2, factor, out);
}

#endif

// `blocks` of a cluster have the same tokens.
template <Source From>
__global__ void __launch_bounds__(threads_of(From), 1)
    mla_wgmma_kernel(const __grid_constant__ CacheMaps maps, const __grid_constant__ MlaDecode p,
                     const unsigned blocks) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ORRERY_DYNAMIC_SHARED(shared, shared_bytes);
  const SharedAddress base = shared_address(shared);
  if (threadIdx.x == 0) {
    for (unsigned i = 0; i < 2 * stages; i++) {
      const SharedAddress barrier = base + barriers_offset + i * 16;
      barrier_init(barrier, From == Source::boxes  ? 1
                            : From == Source::rows ? 128
                                                   : 4 * groups_of_bringers(From));  // filled
      barrier_init(barrier + 8, 4 * blocks);  // emptied: every warp that multiplies values
    }
    barrier_init_fence();
  }
  Place at{p.pieces[blockIdx.y], static_cast<int>(blockIdx.x) * mla_wgmma_heads, 0, 0, 0};
  at.heads = p.heads - at.first_head < mla_wgmma_heads ? p.heads - at.first_head : mla_wgmma_heads;
  at.tokens = at.piece.end - at.piece.first;
  at.tiles = (at.tokens + tile_tokens - 1) / tile_tokens;
  if constexpr (From == Source::fp8) {
    load_queries_as_f16(p, at, shared);
  } else {
    load_queries<From>(p, at, base);
  }
  blocks > 1 ? cluster_meet() : gpu_barrier();
  const unsigned group = threadIdx.x / 128;
  if (group >= 2) {
    give_registers<registers_of_bringers(From)>();
    if constexpr (From == Source::boxes) {
      const int rows = p.kv.block_size < tile_tokens ? p.kv.block_size : tile_tokens;
      if (gpu_warp_index() % 4 == 0) bring_boxes({maps, p, at, blocks, cluster_rank(), rows}, base);
    } else if constexpr (From == Source::rows) {
      bring_rows(p, at, base);
    } else {
      bring_eight_bits<From>(p, at, shared);
    }
  } else {
    take_registers<registers_of_multipliers(From)>();
    if (group == 0) {
      score_and_multiply<From>(p, at, shared, blocks);
    } else {
      multiply_only<From>(p, at, shared, blocks);
    }
  }
  if (blocks > 1) {  // a block's memory stays until the other has said its last word to it
    __syncwarp();
    cluster_meet();
  }
#endif
}

// Dimensions of a part, rows, parts.
CacheMaps cache_maps(const LatentKv& kv) {
  TensorMapShape part;
  part.extent[0] = latent_key;
  part.extent[1] = static_cast<cuuint64_t>(kv.blocks) * static_cast<cuuint64_t>(kv.block_size);
  part.stride[0] = latent_key * 2;
  part.box[0] = 64;
  part.box[1] = static_cast<cuuint32_t>(kv.block_size < tile_tokens ? kv.block_size : tile_tokens);
  TensorMapShape four = part;
  four.rank = 3;
  four.extent[0] = 64;
  four.extent[2] = parts;
  four.stride[1] = 128;
  four.box[2] = 4;
  return {tensor_map(kv.rows, part), tensor_map(kv.rows, four)};
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
  const unsigned across = gpu_blocks_for(p.heads, mla_wgmma_heads);
  const unsigned blocks = From == Source::boxes && across % 2 == 0 ? 2 : 1;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(across, static_cast<unsigned>(p.piece_count));
  launch.blockDim = dim3(threads_of(From));
  launch.dynamicSmemBytes = shared_bytes;
  launch.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {blocks, 1, 1};
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  static_cast<void>(cudaLaunchKernelEx(&launch, mla_wgmma_kernel<From>,
                                       From == Source::boxes ? cache_maps(p.kv) : CacheMaps{}, p, blocks));
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
