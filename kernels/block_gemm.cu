// Block-scaled products on matrix cores: mma.sync, MFMA, WMMA (row_stages.h). A step is 128 features in of
// both operands: one block of scales, whose products are added on their own and then scaled in fp32.
#include "kernels/block_gemm.h"

#include "kernels/block_tiles.h"
#include "kernels/gpu_runtime.h"
#include "kernels/row_stages.h"

namespace orrery::kernels {
namespace {

template <int Rows, int WarpRows, int WarpColumns, int Stages, bool ByChannel>
struct Shape : RowStages<true, Rows, WarpRows, WarpColumns, Stages> {
  using Base = RowStages<true, Rows, WarpRows, WarpColumns, Stages>;
  static constexpr bool by_channel = ByChannel;
  // Matrix cores of AMD's add in fp32: sums of one scale for all of k need no second set.
  static constexpr bool one_sum = ByChannel && ORRERY_MATRIX_TARGET != 0;
  static constexpr int shared_bytes = Base::table_offset + static_cast<int>(sizeof(BlockTileTable));
  static constexpr int blocks_per_unit = Rows <= 16 ? 3 : 1;
};

GPU_DEVICE float block_scale(const BlockGemm& p, const Tile& tile, int step) {
  const std::int64_t blocks = (p.n + 127) / 128;
  return p.weight_scales[(tile.expert * blocks + tile.first_column / 128) * p.weight_blocks + step];
}
GPU_DEVICE float channel_scale(const BlockGemm& p, const Tile& tile, int column) {
  return column < p.n ? p.weight_scales[std::int64_t{tile.expert} * p.n + column] : 0.0F;
}

template <class S>
GPU_DEVICE void scale_channels(const BlockGemm& p, const Tile& tile, RowSums<S>& sums) {
  const int column0 = tile.first_column + S::first_column();
  GPU_UNROLL for (int i = 0; i < S::row_tiles; i++) {
    float row[tile_rows_held];
    GPU_UNROLL for (int held = 0; held < tile_rows_held; held++) {
      const int r = S::first_row() + 16 * i + tile_row(held);
      row[held] = r < tile.rows ? p.activation_scales[tile.first_row + r] : 0.0F;
    }
    GPU_UNROLL for (int j = 0; j < S::column_tiles; j++) {
      GPU_UNROLL for (int c = 0; c < 4 * tile_parts; c++) {
        sums.tile[i][j].value[c / 4][c % 4] *=
            row[tile_held(c % 4)] * channel_scale(p, tile, column0 + 16 * j + tile_column(c / 4, c % 4));
      }
    }
  }
}

template <class S>
GPU_DEVICE void compute_stage(const BlockGemm& p, const Tile& tile, int step, SharedAddress stage,
                              RowSums<S>& total) {
  if constexpr (S::one_sum) {
    multiply_stage<S>(stage, total);
  } else {
    RowSums<S> block;
    StageScales<S> scales;
    if constexpr (S::by_channel) {
      scales.set_to_one();
    } else {
      scales.load(p.activation_scales, p.scale_row, p.scale_block, block_scale(p, tile, step), tile, step);
    }
    block.clear();
    multiply_stage<S>(stage, block);
    scales.add(block, total);
  }
}

template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks_per_unit) block_gemm_kernel(const BlockGemm p) {
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(shared + S::table_offset);
  prepare_block_walk<S::threads, S::tile_rows, S::tile_columns>(table, p, BlockTileUnit{});
  using Steps = BlockSteps<S::tile_rows, S::tile_columns>;
  walk_stages<S>(
      RowOperands{p.activations, p.weights, p.k, p.n}, shared, Steps(table, p),
      [&](Steps& at) { at.advance(table, p); },
      [&](const Steps& at, SharedAddress stage, RowSums<S>& total) {
        compute_stage<S>(p, at.here(), at.step, stage, total);
        if (!at.last()) return;
        if constexpr (S::by_channel) scale_channels<S>(p, at.here(), total);
        store_tile<S>(p.out, p.n, at.here(), total);
      });
}

template <class S>
void launch_shape(const BlockGemm& p, void* stream) {
  // No more blocks than there can be tiles: rows are cut by expert, so each expert may add one.
  const std::int64_t row_tiles = p.rows / S::tile_rows + p.experts;
  const std::int64_t tiles = row_tiles * ((p.n + S::tile_columns - 1) / S::tile_columns);
  const std::int64_t at_once = std::int64_t{gpu_compute_units()} * S::blocks_per_unit;
  const auto blocks = static_cast<unsigned>(tiles < at_once ? tiles : at_once);
  launch_shared(block_gemm_kernel<S>, {blocks}, S::threads, S::shared_bytes, stream, p);
}

template <bool ByChannel>
void launch_rows(const BlockGemm& p, void* stream) {
  constexpr int wide = GPU_WARP / 32;  // 64 lanes: half the warps, each over twice the columns
  const std::int32_t each = p.rows_each > 0 ? p.rows_each : (p.rows + p.experts - 1) / p.experts;
  if (each <= 16) return launch_shape<Shape<16, 16, 16 * wide, 3, ByChannel>>(p, stream);
  if (each <= 96) return launch_shape<Shape<64, 32, 32 * wide, 4, ByChannel>>(p, stream);
  launch_shape<Shape<128, 64, 32 * wide, 3, ByChannel>>(p, stream);
}

}  // namespace

void block_gemm(const BlockGemm& problem, void* stream) {
  if (problem.rows == 0 || problem.n == 0 || problem.k == 0) return;
  problem.by_channel ? launch_rows<true>(problem, stream) : launch_rows<false>(problem, stream);
}

}  // namespace orrery::kernels
