// Sums of a warp to rows of out, by way of shared memory, so that stores are 16 bytes a thread and whole
// sectors (sm_90a). wgmma.h says how accumulators lie.
#pragma once

#include "kernels/block_gemm.h"
#include "kernels/grouped_tiles.h"
#include "kernels/wgmma.h"

namespace orrery::kernels {

inline constexpr int staging_bytes = 2048;  // of a warp

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Four 8 × 8 matrices of 16 bits; lane i names row i % 8 of matrix i / 8. Transposed: a row in memory is a
// column of the matrix.
template <bool Transposed>
GPU_DEVICE void store_matrices(SharedAddress row, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                               std::uint32_t d) {
  if constexpr (Transposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(a),
                 "r"(b), "r"(c), "r"(d)
                 : "memory");
  }
}

GPU_DEVICE GpuBytes16* out_at(const BlockGemm& p, const Tile& tile, int row, int column) {
  return reinterpret_cast<GpuBytes16*>(static_cast<std::uint16_t*>(p.out) +
                                       static_cast<std::int64_t>(tile.first_row + row) * p.n + column);
}
GPU_DEVICE float channel_scale(const BlockGemm& p, const Tile& tile, int column) {
  return column < p.n ? p.weight_scales[static_cast<std::int64_t>(tile.expert) * p.n + column] : 0.0F;
}
GPU_DEVICE float row_scale(const BlockGemm& p, const Tile& tile, int row) {
  return row < tile.rows ? p.activation_scales[tile.first_row + row] : 0.0F;
}

// Of a warpgroup's 64 rows from `first_row` of the tile on, all columns from `first_column` on; 64 at a time,
// or Some of those: with a bit in `chunks`.
template <bool ByChannel, bool Some, int Count>
GPU_DEVICE void store_rows(const BlockGemm& p, const Tile& tile, int first_row, int first_column,
                           float (&sums)[Count], unsigned char* staging, unsigned chunks) {
  const int lane = static_cast<int>(gpu_lane()), warp = static_cast<int>(gpu_warp_index()) % 4;
  const int row0 = first_row + 16 * warp, column0 = tile.first_column + first_column;
  const SharedAddress to = shared_address(staging);
  GPU_UNROLL for (int chunk = 0; chunk < Count / 32; chunk++) {
    if (Some && (chunks >> chunk & 1U) == 0) continue;
    __syncwarp();               // the chunk before has been read
    if constexpr (ByChannel) {  // here, so that no more than a chunk's scales are held
      const float rows[2] = {row_scale(p, tile, row0 + lane / 4), row_scale(p, tile, row0 + lane / 4 + 8)};
      GPU_UNROLL for (int j = 8 * chunk; j < 8 * chunk + 8; j++) {
        const int column = column0 + 8 * j + lane % 4 * 2;
        const float columns[2] = {channel_scale(p, tile, column), channel_scale(p, tile, column + 1)};
        GPU_UNROLL for (int c = 0; c < 4; c++) sums[4 * j + c] *= rows[c / 2] * columns[c % 2];
      }
    }
    GPU_UNROLL for (int pair = 0; pair < 4; pair++) {
      const float* s = sums + 32 * chunk + 8 * pair;
      const unsigned row = static_cast<unsigned>(lane / 8 % 2 * 8 + lane % 8);
      store_matrices<false>(to + swizzled_128(row, static_cast<unsigned>(2 * pair + lane / 16)),
                            gpu_pack_bf16(s[0], s[1]), gpu_pack_bf16(s[2], s[3]), gpu_pack_bf16(s[4], s[5]),
                            gpu_pack_bf16(s[6], s[7]));
    }
    __syncwarp();
    const int column = column0 + 64 * chunk + lane % 8 * 8;
    GPU_UNROLL for (int i = 0; i < 4; i++) {
      const int row = lane / 8 + 4 * i;
      if (row0 + row < tile.rows && column < p.n) {
        *out_at(p, tile, row0 + row, column) = *reinterpret_cast<const GpuBytes16*>(
            staging + swizzled_128(static_cast<unsigned>(row), static_cast<unsigned>(lane % 8)));
      }
    }
  }
}

// Swapped: sums have 64 features out from `first_feature` of the tile on as rows, rows of out as columns.
template <bool ByChannel, int Count>
GPU_DEVICE void store_transposed(const BlockGemm& p, const Tile& tile, int first_feature,
                                 float (&sums)[Count], unsigned char* staging) {
  constexpr int rows = 2 * Count;
  static_assert(rows * 32 <= staging_bytes);
  const int lane = static_cast<int>(gpu_lane()), warp = static_cast<int>(gpu_warp_index()) % 4;
  const int column0 = tile.first_column + first_feature + 16 * warp;
  if constexpr (ByChannel) {
    const float features[2] = {channel_scale(p, tile, column0 + lane / 4),
                               channel_scale(p, tile, column0 + lane / 4 + 8)};
    GPU_UNROLL for (int j = 0; j < Count / 4; j++) {
      const int row = 8 * j + lane % 4 * 2;
      const float of_rows[2] = {row_scale(p, tile, row), row_scale(p, tile, row + 1)};
      GPU_UNROLL for (int c = 0; c < 4; c++) sums[4 * j + c] *= features[c / 2] * of_rows[c % 2];
    }
  }
  const SharedAddress to = shared_address(staging);
  __syncwarp();  // the tile before has been read
  GPU_UNROLL for (int pair = 0; pair < rows / 16; pair++) {
    const float* s = sums + 8 * pair;
    const int row = 16 * pair + lane / 16 * 8 + lane % 8;
    store_matrices<true>(to + static_cast<unsigned>(row * 32 + lane / 8 % 2 * 16), gpu_pack_bf16(s[0], s[1]),
                         gpu_pack_bf16(s[2], s[3]), gpu_pack_bf16(s[4], s[5]), gpu_pack_bf16(s[6], s[7]));
  }
  __syncwarp();
  const int column = column0 + lane % 2 * 8;
  GPU_UNROLL for (int i = 0; i < rows / 16; i++) {
    const int row = 16 * i + lane / 2;
    if (row < tile.rows && column < p.n) {
      *out_at(p, tile, row, column) =
          *reinterpret_cast<const GpuBytes16*>(staging + row * 32 + lane % 2 * 16);
    }
  }
}

#endif

}  // namespace orrery::kernels
