// Grouped GEMM on matrix cores: mma.sync, MFMA, WMMA (matrix_tile.h). A block stays and walks over tiles; its
// loads run ahead across the borders of tiles, so that short k (down projections of small experts) keeps
// memory busy as well: by a pipeline of cp.async stages or, where there is no such copy, by one stage in
// registers. A stage is 128 bytes of k for every row of the tile: 64 bf16, or 128 e4m3, which is exactly one
// block of scales. Tiles of one expert and the same weights are neighbours in the order of tiles: weights
// come from memory once and meet the expert's other row tiles in L2.
#include "kernels/grouped_gemm.h"

#include "kernels/gpu_runtime.h"
#include "kernels/grouped_tiles.h"
#include "kernels/matrix_warp_tile.h"

namespace orrery::kernels {
namespace {

using Table = TileTable<grouped_gemm_max_experts>;

template <bool Fp8, int TileRows, int WarpRows, int WarpColumns, int Stages>
struct Shape {
  static constexpr bool fp8 = Fp8;
  static constexpr int tile_rows = TileRows, tile_columns = 128, warp_rows = WarpRows,
                       warp_columns = WarpColumns;
  static constexpr int threads = 256, stages = copies_run_ahead ? Stages : 1;
  static constexpr int warps_across = tile_columns / WarpColumns;
  static constexpr int row_tiles = WarpRows / 16, column_tiles = WarpColumns / 16;
  static constexpr int copied_rows = threads / 8;  // at once, eight chunks each
  static constexpr int row_copies = (TileRows + copied_rows - 1) / copied_rows;
  static constexpr int weights_offset = TileRows * 128, stage_bytes = (TileRows + tile_columns) * 128;
  static constexpr int table_offset = stages * stage_bytes;
  static constexpr int shared_bytes = table_offset + static_cast<int>(sizeof(Table));
  // Two sets of accumulators (a block of 128 and the total) leave room for fewer blocks; nothing may spill.
  static constexpr int blocks_per_unit = TileRows <= 32 ? (Fp8 && TileRows == 32 ? 2 : 3) : (Fp8 ? 1 : 2);
  static_assert(TileRows / WarpRows * warps_across * GPU_WARP == threads);
};

template <class S>
using Accumulators = WarpTile<S::row_tiles, S::column_tiles>;

// Where the thread's copy `index` of a stage goes; false where there is nothing to copy.
template <class S>
GPU_DEVICE bool copy_place(int index, std::uint32_t& to) {
  const int chunk = static_cast<int>(threadIdx.x) % 8, first = static_cast<int>(threadIdx.x) / 8;
  if (index >= S::row_copies) {
    to = S::weights_offset + swizzled_128(first + (index - S::row_copies) * S::copied_rows, chunk);
    return true;
  }
  const int row = first + index * S::copied_rows;
  to = swizzled_128(row, chunk);
  return S::tile_rows >= S::copied_rows || row < S::tile_rows;
}

// One stage, 16-byte chunks, eight to a row: calls copy(index, from, valid). Rows beyond the expert, columns
// beyond n and bytes beyond k are not valid and count as zeros.
template <class S, class Copy>
GPU_DEVICE void for_stage(const GroupedGemm& p, const TileCursor& cursor, Copy copy) {
  const std::int64_t row_bytes = static_cast<std::int64_t>(p.k) * (S::fp8 ? 1 : 2);
  const int chunk = static_cast<int>(threadIdx.x) % 8, first = static_cast<int>(threadIdx.x) / 8;
  const std::int64_t byte = static_cast<std::int64_t>(cursor.step) * 128 + chunk * 16;
  const bool inside = byte < row_bytes;
  const auto* activations = static_cast<const unsigned char*>(p.activations);
  const auto* weights = static_cast<const unsigned char*>(p.weights);
  GPU_UNROLL
  for (int i = 0; i < S::row_copies; i++) {
    const int row = first + i * S::copied_rows;
    const bool valid = inside && row < cursor.tile.rows;
    copy(i, activations + (valid ? (cursor.tile.first_row + row) * row_bytes + byte : 0), valid);
  }
  GPU_UNROLL
  for (int i = 0; i < S::tile_columns / S::copied_rows; i++) {
    const int column = first + i * S::copied_rows;
    const bool valid = inside && cursor.tile.first_column + column < p.n;
    const std::int64_t weight_row =
        static_cast<std::int64_t>(cursor.tile.expert) * p.n + cursor.tile.first_column + column;
    copy(S::row_copies + i, weights + (valid ? weight_row * row_bytes + byte : 0), valid);
  }
}

template <class S>
GPU_DEVICE void load_stage(const GroupedGemm& p, const TileCursor& cursor, SharedAddress stage) {
  for_stage<S>(p, cursor, [&](int index, const unsigned char* from, bool valid) {
    std::uint32_t to = 0;
    if (copy_place<S>(index, to)) copy_async(stage + to, from, valid);
  });
}

// The stage that comes next, in registers: loads are under way while products are taken of the stage before.
template <class S>
struct StageInRegisters {
  static constexpr int copies = S::row_copies + S::tile_columns / S::copied_rows;
  GpuBytes16 chunk[copies];

  GPU_DEVICE_MEMBER void load(const GroupedGemm& p, const TileCursor& cursor) {
    for_stage<S>(p, cursor, [&](int index, const unsigned char* from, bool valid) {
      chunk[index] = load_or_zeros(from, valid);
    });
  }
  GPU_DEVICE_MEMBER void lay_down(unsigned char* stage) const {
    GPU_UNROLL
    for (int i = 0; i < copies; i++) {
      std::uint32_t to = 0;
      if (copy_place<S>(i, to)) gpu_store(stage + to, 0, chunk[i]);
    }
  }
};

// accumulators += (rows of this warp) · (columns of this warp)ᵀ over the 128 bytes of a stage.
template <class S>
GPU_DEVICE void multiply_stage(SharedAddress stage, Accumulators<S>& sums) {
  const int warp = static_cast<int>(threadIdx.x) / GPU_WARP;
  const int row0 = warp / S::warps_across * S::warp_rows, column0 = warp % S::warps_across * S::warp_columns;
  const OperandChunk left = left_chunk(), right = right_chunk();
  constexpr int steps = 128 / tile_step_bytes;
  // On sm_90 ptxas builds mma.sync of e4m3 from f16 instructions: unrolled, their operands would spill.
  ORRERY_UNROLL_BY(S::fp8 && copies_run_ahead ? 1 : steps)
  for (int step = 0; step < steps; step++) {
    MatrixOperand b[S::column_tiles];
    GPU_UNROLL
    for (int j = 0; j < S::column_tiles; j++) {
      b[j].load(stage + S::weights_offset +
                swizzled_128(column0 + right.row + 16 * j, tile_step_chunks * step + right.chunk));
    }
    GPU_UNROLL
    for (int i = 0; i < S::row_tiles; i++) {
      MatrixOperand a;
      a.load(stage + swizzled_128(row0 + left.row + 16 * i, tile_step_chunks * step + left.chunk));
      GPU_UNROLL
      for (int j = 0; j < S::column_tiles; j++) multiply_step<S::fp8>(sums.tile[i][j], a, b[j]);
    }
  }
}

// The scales that a stage of e4m3 needs: asked for before its products, used after them.
template <class S>
struct StageScales {
  float row[S::row_tiles][tile_rows_held];

  GPU_DEVICE_MEMBER void load(const GroupedGemm& p, const Tile& tile, int step) {
    const int blocks = (p.k + 127) / 128, warp = static_cast<int>(threadIdx.x) / GPU_WARP;
    const int row0 = warp / S::warps_across * S::warp_rows;
    const float* weight_scales =
        p.weight_scales + static_cast<std::int64_t>(tile.expert) * ((p.n + 127) / 128) * blocks;
    const float weight = weight_scales[static_cast<std::int64_t>(tile.first_column / 128) * blocks + step];
    GPU_UNROLL
    for (int i = 0; i < S::row_tiles; i++) {
      GPU_UNROLL
      for (int held = 0; held < tile_rows_held; held++) {
        const int r = row0 + 16 * i + tile_row(held);
        const std::int64_t at = static_cast<std::int64_t>(tile.first_row + r) * blocks + step;
        row[i][held] = r < tile.rows ? p.activation_scales[at] * weight : 0.0f;
      }
    }
  }

  GPU_DEVICE_MEMBER void add(const Accumulators<S>& block, Accumulators<S>& total) const {
    GPU_UNROLL
    for (int i = 0; i < S::row_tiles; i++) {
      GPU_UNROLL
      for (int j = 0; j < S::column_tiles; j++) {
        GPU_UNROLL
        for (int c = 0; c < 4 * tile_parts; c++) {
          total.tile[i][j].value[c / 4][c % 4] +=
              block.tile[i][j].value[c / 4][c % 4] * row[i][tile_held(c % 4)];
        }
      }
    }
  }
};

template <class S>
GPU_DEVICE void store_tile(const GroupedGemm& p, const Tile& tile, const Accumulators<S>& sums) {
  const int warp = static_cast<int>(threadIdx.x) / GPU_WARP;
  const int row0 = warp / S::warps_across * S::warp_rows;
  const int column0 = tile.first_column + warp % S::warps_across * S::warp_columns;
  store_warp_tile(static_cast<std::uint16_t*>(p.out) + std::int64_t{tile.first_row} * p.n, p.n, tile.rows,
                  row0, column0, sums);
}

// Takes the products of a stage; after the last one of a tile, the tile is stored.
template <class S>
GPU_DEVICE void compute_stage(const GroupedGemm& p, const TileCursor& at, SharedAddress stage,
                              Accumulators<S>& total) {
  if constexpr (S::fp8) {
    Accumulators<S> block;
    StageScales<S> scales;
    scales.load(p, at.tile, at.step);
    block.clear();
    multiply_stage<S>(stage, block);
    scales.add(block, total);
  } else {
    multiply_stage<S>(stage, total);
  }
  if (at.last_step()) store_tile<S>(p, at.tile, total);
}

template <class S>
__global__ void __launch_bounds__(S::threads, S::blocks_per_unit) grouped_gemm_kernel(const GroupedGemm p) {
  ORRERY_DYNAMIC_SHARED(shared, S::shared_bytes);
  Table& table = *reinterpret_cast<Table*>(shared + S::table_offset);
  fill_tile_table<S::threads>(table, p.row_offsets, p.experts, S::tile_rows, S::tile_columns, p.n);
  const SharedAddress stages = shared_address(shared);
  const int steps = static_cast<int>((static_cast<std::int64_t>(p.k) * (S::fp8 ? 1 : 2) + 127) / 128);
  TileCursor loading, computing;
  loading.start(table, p.row_offsets, steps);
  computing = loading;
  Accumulators<S> total;
  if constexpr (copies_run_ahead) {
    for (int s = 0; s < S::stages - 1; s++) {
      if (!loading.done()) load_stage<S>(p, loading, stages + s * S::stage_bytes);
      copy_async_commit();
      loading.advance(table, p.row_offsets);
    }
    int slot = 0, free_slot = S::stages - 1;
    while (!computing.done()) {
      if (computing.step == 0) total.clear();
      copy_async_wait<S::stages - 2>();
      gpu_barrier();  // the stage is there for all, and all are through with the one before
      if (!loading.done()) load_stage<S>(p, loading, stages + free_slot * S::stage_bytes);
      copy_async_commit();
      loading.advance(table, p.row_offsets);
      compute_stage<S>(p, computing, stages + slot * S::stage_bytes, total);
      computing.advance(table, p.row_offsets);
      slot = slot + 1 == S::stages ? 0 : slot + 1;
      free_slot = free_slot + 1 == S::stages ? 0 : free_slot + 1;
    }
    copy_async_wait<0>();
  } else {
    StageInRegisters<S> next;
    if (!loading.done()) next.load(p, loading);
    while (!computing.done()) {
      if (computing.step == 0) total.clear();
      gpu_barrier();  // all are through with the stage before
      next.lay_down(shared);
      gpu_barrier();
      loading.advance(table, p.row_offsets);
      if (!loading.done()) next.load(p, loading);
      compute_stage<S>(p, computing, stages, total);
      computing.advance(table, p.row_offsets);
    }
  }
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
