// Grouped GEMM on matrix cores: mma.sync, MFMA, WMMA (row_stages.h). Loads run ahead across the borders of
// tiles, so that short k (down projections of small experts) keeps memory busy as well. Tiles of one expert
// and the same weights are neighbours in the order of tiles: weights come from memory once and meet the
// expert's other row tiles in L2.
#include "kernels/grouped_gemm.h"

#include "kernels/gpu_runtime.h"
#include "kernels/grouped_tiles.h"
#include "kernels/row_stages.h"

namespace orrery::kernels {
namespace {

using Table = TileTable<grouped_gemm_max_experts>;

template <bool Fp8, int TileRows, int WarpRows, int WarpColumns, int Stages>
struct Shape : RowStages<Fp8, TileRows, WarpRows, WarpColumns, Stages> {
  using Base = RowStages<Fp8, TileRows, WarpRows, WarpColumns, Stages>;
  static constexpr int shared_bytes = Base::table_offset + static_cast<int>(sizeof(Table));
  // Two sets of accumulators (a block of 128 and the total) leave room for fewer blocks; nothing may spill.
  static constexpr int blocks_per_unit = TileRows <= 32 ? (Fp8 && TileRows == 32 ? 2 : 3) : (Fp8 ? 1 : 2);
};

GPU_DEVICE float weight_scale(const GroupedGemm& p, const Tile& tile, int step) {
  const int blocks = (p.k + 127) / 128;
  const float* of_expert =
      p.weight_scales + static_cast<std::int64_t>(tile.expert) * ((p.n + 127) / 128) * blocks;
  return of_expert[static_cast<std::int64_t>(tile.first_column / 128) * blocks + step];
}

// Takes the products of a stage; after the last one of a tile, the tile is stored.
template <class S>
GPU_DEVICE void compute_stage(const GroupedGemm& p, const TileCursor& at, SharedAddress stage,
                              RowSums<S>& total) {
  if constexpr (S::fp8) {
    RowSums<S> block;
    StageScales<S> scales;
    scales.load(p.activation_scales, (p.k + 127) / 128, 1, weight_scale(p, at.tile, at.step), at.tile,
                at.step);
    block.clear();
    multiply_stage<S>(stage, block);
    scales.add(block, total);
  } else {
    multiply_stage<S>(stage, total);
  }
  if (at.last_step()) store_tile<S>(p.out, p.n, at.tile, total);
}

template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks_per_unit) grouped_gemm_kernel(const GroupedGemm p) {
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  Table& table = *reinterpret_cast<Table*>(shared + S::table_offset);
  fill_tile_table<S::threads>(table, p.row_offsets, p.experts, S::tile_rows, S::tile_columns, p.n);
  const std::int64_t row_bytes = static_cast<std::int64_t>(p.k) * (S::fp8 ? 1 : 2);
  TileCursor first;
  first.start(table, p.row_offsets, static_cast<int>((row_bytes + 127) / 128));
  walk_stages<S>(
      RowOperands{p.activations, p.weights, row_bytes, p.n}, shared, first,
      [&](TileCursor& at) { at.advance(table, p.row_offsets); },
      [&](const TileCursor& at, SharedAddress stage, RowSums<S>& total) {
        compute_stage<S>(p, at, stage, total);
      });
}

template <class S>
void launch_shape(const GroupedGemm& p, void* stream) {
  // No more blocks than there can be tiles: rows are split by expert, so each expert may add one tile.
  const std::int64_t row_tiles = p.rows / S::tile_rows + p.experts;
  const std::int64_t tiles = row_tiles * ((p.n + S::tile_columns - 1) / S::tile_columns);
  const std::int64_t units = p.compute_units > 0 ? p.compute_units : std::int64_t{gpu_compute_units()};
  constexpr std::int64_t shared_per_unit = (copies_run_ahead ? 220 : 64) * 1024;
  std::int64_t fit = shared_per_unit / (S::shared_bytes + 1024);
  fit = fit < 1 ? 1 : (fit > S::blocks_per_unit ? S::blocks_per_unit : fit);
  const std::int64_t blocks = tiles < units * fit ? tiles : units * fit;
  if (blocks == 0) return;
  launch_shared(grouped_gemm_kernel<S>, {static_cast<unsigned>(blocks)}, S::threads, S::shared_bytes, stream,
                p);
}

template <bool Fp8>
void launch_type(const GroupedGemm& p, std::int32_t tile_rows, void* stream) {
  constexpr int wide = GPU_WARP / 32;  // 64 lanes: half the warps, each over twice the columns
  switch (tile_rows) {
    case 16: return launch_shape<Shape<Fp8, 16, 16, 16 * wide, 3>>(p, stream);
    case 32: return launch_shape<Shape<Fp8, 32, 32, 16 * wide, 4>>(p, stream);
    case 64: return launch_shape<Shape<Fp8, 64, 32, 32 * wide, 4>>(p, stream);
    default: return launch_shape<Shape<Fp8, 128, 64, 32 * wide, 3>>(p, stream);
  }
}

}  // namespace

void grouped_gemm(const GroupedGemm& problem, void* stream) {
  if (problem.rows == 0 || problem.n == 0 || problem.k == 0) return;
  const std::int32_t tile_rows =
      problem.tile_rows > 0 ? problem.tile_rows : grouped_gemm_tile_rows(problem.rows, problem.experts);
  if (problem.fp8_block) {
    launch_type<true>(problem, tile_rows, stream);
  } else {
    launch_type<false>(problem, tile_rows, stream);
  }
}

}  // namespace orrery::kernels
