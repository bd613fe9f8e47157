// Block-scaled products with mma.sync (and what stands for it on other targets, tensor_core.h). A block stays
// and walks over tiles; its pipeline of cp.async stages runs ahead across the borders of tiles. A stage is
// 128 features in of both operands: one block of scales, whose products are added on their own and then
// scaled in fp32.
#include "kernels/block_gemm.h"

#include "kernels/block_tiles.h"
#include "kernels/gpu_runtime.h"
#include "kernels/tensor_core.h"

namespace orrery::kernels {
namespace {

template <int Rows, int WarpRows, int WarpColumns, int Stages, bool ByChannel>
struct Shape {
  static constexpr int rows = Rows, columns = 128, warp_rows = WarpRows, warp_columns = WarpColumns;
  static constexpr int threads = 256, stages = Stages, warps_across = columns / WarpColumns;
  static constexpr int row_fragments = WarpRows / 16, column_fragments = WarpColumns / 8;
  static constexpr bool by_channel = ByChannel;
  static constexpr int weights_offset = Rows * 128, stage_bytes = (Rows + columns) * 128;
  static constexpr int table_offset = Stages * stage_bytes;
  static constexpr int shared_bytes = table_offset + static_cast<int>(sizeof(BlockTileTable));
  static constexpr int blocks_per_unit = Rows <= 16 ? 3 : 1;
  static_assert(Rows / WarpRows * warps_across * 32 == threads);
};

template <class S>
struct Sums {
  float value[S::row_fragments][S::column_fragments][4];
  GPU_DEVICE_MEMBER void clear() {
    GPU_UNROLL for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL for (int j = 0; j < S::column_fragments; j++) {
        GPU_UNROLL for (int c = 0; c < 4; c++) value[i][j][c] = 0;
      }
    }
  }
};

template <class S>
using Steps = BlockSteps<S::rows, S::columns>;

// `count` rows of 128 bytes, in chunks of 16; `valid` rows of them and bytes below k exist, the rest is
// zeros.
template <int Count>
GPU_DEVICE void load_rows(SharedAddress to, const void* matrix, std::int64_t first_row, int valid, int k,
                          int step) {
  const int chunk = static_cast<int>(threadIdx.x) % 8, first = static_cast<int>(threadIdx.x) / 8;
  const int byte = step * 128 + chunk * 16;
  GPU_UNROLL for (int i = 0; i < (Count + 31) / 32; i++) {
    const int row = first + i * 32;
    if (Count >= 32 || row < Count) {
      const bool there = byte < k && row < valid;
      const auto* from =
          static_cast<const unsigned char*>(matrix) + (there ? (first_row + row) * k + byte : 0);
      copy_async(to + swizzled_128(row, chunk), from, there);
    }
  }
}

template <class S>
GPU_DEVICE void load_stage(const BlockGemm& p, const Steps<S>& at, SharedAddress stage) {
  const Tile& tile = at.walk.tile;
  load_rows<S::rows>(stage, p.activations, tile.first_row, tile.rows, p.k, at.step);
  load_rows<S::columns>(stage + S::weights_offset, p.weights,
                        std::int64_t{tile.expert} * p.n + tile.first_column, p.n - tile.first_column, p.k,
                        at.step);
}

// sums = (rows of this warp) · (columns of this warp)ᵀ over the 128 features of a stage.
template <class S>
GPU_DEVICE void multiply_stage(SharedAddress stage, Sums<S>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / S::warps_across * S::warp_rows, column0 = warp % S::warps_across * S::warp_columns;
  // A: matrices are (rows 0–7, 8–15) × (chunk, chunk + 1) with rows first; B: (chunk, chunk + 1) first.
  const int a_row = row0 + lane % 16, a_chunk = lane / 16;
  const int b_row = column0 + lane / 16 * 8 + lane % 8, b_chunk = lane / 8 % 2;
  sums.clear();
  // On sm_90 ptxas builds mma.sync of e4m3 from f16 instructions: unrolled, their operands would spill.
  ORRERY_UNROLL_BY(1)
  for (int step = 0; step < 4; step++) {
    std::uint32_t b[S::column_fragments / 2][4];
    GPU_UNROLL for (int j = 0; j < S::column_fragments / 2; j++) {
      load_matrix_x4(b[j], stage + S::weights_offset + swizzled_128(b_row + 16 * j, 2 * step + b_chunk));
    }
    GPU_UNROLL for (int i = 0; i < S::row_fragments; i++) {
      std::uint32_t a[4];
      load_matrix_x4(a, stage + swizzled_128(a_row + 16 * i, 2 * step + a_chunk));
      GPU_UNROLL for (int j = 0; j < S::column_fragments; j++) {
        mma_e4m3(sums.value[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
}

// The scales of this thread's rows at a step (by block), or at the end (by channel).
template <class S>
struct RowScales {
  float row[S::row_fragments][2];

  GPU_DEVICE_MEMBER RowScales(const BlockGemm& p, const Tile& tile, int step) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int row0 = warp / S::warps_across * S::warp_rows + static_cast<int>(threadIdx.x) % 32 / 4;
    float weight = 1;
    if constexpr (!S::by_channel) {
      const int blocks = (p.n + 127) / 128;
      weight = p.weight_scales[(static_cast<std::int64_t>(tile.expert) * blocks + tile.first_column / 128) *
                                   p.weight_blocks +
                               step];
    }
    GPU_UNROLL for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL for (int half = 0; half < 2; half++) {
        const int r = row0 + 16 * i + 8 * half;
        const std::int64_t at = S::by_channel ? tile.first_row + r
                                              : (std::int64_t{tile.first_row} + r) * p.scale_row +
                                                    std::int64_t{step} * p.scale_block;
        row[i][half] = r < tile.rows ? p.activation_scales[at] * weight : 0.0F;
      }
    }
  }
};

template <class S>
GPU_DEVICE void add_block(Sums<S>& total, const Sums<S>& block, const BlockGemm& p, const Tile& tile,
                          int step) {
  if constexpr (S::by_channel) {
    GPU_UNROLL for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL for (int j = 0; j < S::column_fragments; j++) {
        GPU_UNROLL for (int c = 0; c < 4; c++) total.value[i][j][c] += block.value[i][j][c];
      }
    }
  } else {
    const RowScales<S> scales(p, tile, step);
    GPU_UNROLL for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL for (int j = 0; j < S::column_fragments; j++) {
        GPU_UNROLL for (int c = 0; c < 4; c++) total.value[i][j][c] +=
            block.value[i][j][c] * scales.row[i][c / 2];
      }
    }
  }
}

GPU_DEVICE float channel_scale(const BlockGemm& p, const Tile& tile, int column) {
  return column < p.n ? p.weight_scales[std::int64_t{tile.expert} * p.n + column] : 0.0F;
}

// Two neighbouring columns of a row.
GPU_DEVICE void store_two(const BlockGemm& p, std::uint16_t* row, int column, float first, float second) {
  const std::uint32_t two = gpu_pack_bf16(first, second);
  if (p.n % 2 == 0 && column < p.n) {
    *reinterpret_cast<std::uint32_t*>(row + column) = two;
  } else {
    if (column < p.n) row[column] = static_cast<std::uint16_t>(two);
    if (column + 1 < p.n) row[column + 1] = static_cast<std::uint16_t>(two >> 16);
  }
}

template <class S>
GPU_DEVICE void store_tile(const BlockGemm& p, const Tile& tile, const Sums<S>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / S::warps_across * S::warp_rows + lane / 4;
  const int column0 = tile.first_column + warp % S::warps_across * S::warp_columns + lane % 4 * 2;
  GPU_UNROLL for (int i = 0; i < S::row_fragments; i++) {
    GPU_UNROLL for (int half = 0; half < 2; half++) {
      const int row = row0 + 16 * i + 8 * half;
      if (row >= tile.rows) continue;
      auto* to = static_cast<std::uint16_t*>(p.out) + (std::int64_t{tile.first_row} + row) * p.n;
      GPU_UNROLL for (int j = 0; j < S::column_fragments; j++) {
        const int column = column0 + 8 * j;
        float first = sums.value[i][j][2 * half], second = sums.value[i][j][2 * half + 1];
        if constexpr (S::by_channel) {
          const float of_row = p.activation_scales[tile.first_row + row];
          first *= of_row * channel_scale(p, tile, column);
          second *= of_row * channel_scale(p, tile, column + 1);
        }
        store_two(p, to, column, first, second);
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks_per_unit) block_gemm_kernel(const BlockGemm p) {
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(shared + S::table_offset);
  prepare_block_walk<S::threads, S::rows, S::columns>(table, p, BlockTileUnit{});
  const SharedAddress stages = shared_address(shared);
  Steps<S> loading(table, p), computing(table, p);
  for (int s = 0; s < S::stages - 1; s++) {
    if (!loading.done()) load_stage<S>(p, loading, stages + s * S::stage_bytes);
    copy_async_commit();
    loading.advance(table, p);
  }
  Sums<S> total, block;
  int slot = 0, free_slot = S::stages - 1;
  while (!computing.done()) {
    if (computing.step == 0) total.clear();
    copy_async_wait<S::stages - 2>();
    gpu_barrier();  // the stage is there for all, and all are through with the one before
    if (!loading.done()) load_stage<S>(p, loading, stages + free_slot * S::stage_bytes);
    copy_async_commit();
    loading.advance(table, p);
    multiply_stage<S>(stages + slot * S::stage_bytes, block);
    add_block<S>(total, block, p, computing.walk.tile, computing.step);
    if (computing.last()) store_tile<S>(p, computing.walk.tile, total);
    computing.advance(table, p);
    slot = slot + 1 == S::stages ? 0 : slot + 1;
    free_slot = free_slot + 1 == S::stages ? 0 : free_slot + 1;
  }
  copy_async_wait<0>();
}

template <class S>
void launch_shape(const BlockGemm& p, void* stream) {
  // No more blocks than there can be tiles: rows are cut by expert, so each expert may add one.
  const std::int64_t row_tiles = p.rows / S::rows + p.experts;
  const std::int64_t tiles = row_tiles * ((p.n + S::columns - 1) / S::columns);
  const std::int64_t at_once = std::int64_t{gpu_compute_units()} * S::blocks_per_unit;
  const auto blocks = static_cast<unsigned>(tiles < at_once ? tiles : at_once);
  launch_shared(block_gemm_kernel<S>, {blocks}, S::threads, S::shared_bytes, stream, p);
}

template <bool ByChannel>
void launch_rows(const BlockGemm& p, void* stream) {
  const std::int32_t each = p.rows_each > 0 ? p.rows_each : (p.rows + p.experts - 1) / p.experts;
  if (each <= 16) return launch_shape<Shape<16, 16, 16, 3, ByChannel>>(p, stream);
  if (each <= 96) return launch_shape<Shape<64, 32, 32, 4, ByChannel>>(p, stream);
  launch_shape<Shape<128, 64, 32, 3, ByChannel>>(p, stream);
}

}  // namespace

void block_gemm(const BlockGemm& problem, void* stream) {
  if (problem.rows == 0 || problem.n == 0 || problem.k == 0) return;
  problem.by_channel ? launch_rows<true>(problem, stream) : launch_rows<false>(problem, stream);
}

}  // namespace orrery::kernels
