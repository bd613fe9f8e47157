// Grouped GEMM with mma.sync. A block stays and walks over tiles; its pipeline of cp.async stages runs ahead
// across the borders of tiles, so that short k (down projections of small experts) keeps memory busy as well.
// A stage is 128 bytes of k for every row of the tile: 64 bf16, or 128 e4m3, which is exactly one block of
// scales. Tiles of one expert and the same weights are neighbours in the order of tiles: weights come from
// memory once and meet the expert's other row tiles in L2.
#include "kernels/grouped_gemm.h"

#include "kernels/gpu_runtime.h"
#include "kernels/grouped_tiles.h"
#include "kernels/tensor_core.h"

namespace orrery::kernels {
namespace {

using Table = TileTable<grouped_gemm_max_experts>;

template <bool Fp8, int TileRows, int WarpRows, int WarpColumns, int Stages>
struct Shape {
  static constexpr bool fp8 = Fp8;
  static constexpr int tile_rows = TileRows, tile_columns = 128, warp_rows = WarpRows,
                       warp_columns = WarpColumns;
  static constexpr int threads = 256, stages = Stages;
  static constexpr int warps_across = tile_columns / WarpColumns;
  static constexpr int row_fragments = WarpRows / 16, column_fragments = WarpColumns / 8;
  static constexpr int weights_offset = TileRows * 128, stage_bytes = (TileRows + tile_columns) * 128;
  static constexpr int table_offset = Stages * stage_bytes;
  static constexpr int shared_bytes = table_offset + static_cast<int>(sizeof(Table));
  // Two sets of accumulators (a block of 128 and the total) leave room for fewer blocks; nothing may spill.
  static constexpr int blocks_per_unit = TileRows <= 32 ? (Fp8 && TileRows == 32 ? 2 : 3) : (Fp8 ? 1 : 2);
  static_assert(TileRows / WarpRows * warps_across * 32 == threads);
};

template <class S>
struct Accumulators {
  float value[S::row_fragments][S::column_fragments][4];

  GPU_DEVICE_MEMBER void clear() {
    GPU_UNROLL
    for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL
      for (int j = 0; j < S::column_fragments; j++) {
        GPU_UNROLL
        for (int c = 0; c < 4; c++) value[i][j][c] = 0;
      }
    }
  }
};

// One stage: 16-byte chunks, eight to a row; rows beyond the expert, columns beyond n and bytes beyond k are
// zeros.
template <class S>
GPU_DEVICE void load_stage(const GroupedGemm& p, const TileCursor& cursor, SharedAddress stage) {
  const std::int64_t row_bytes = static_cast<std::int64_t>(p.k) * (S::fp8 ? 1 : 2);
  const int chunk = static_cast<int>(threadIdx.x) % 8, first = static_cast<int>(threadIdx.x) / 8;
  const std::int64_t byte = static_cast<std::int64_t>(cursor.step) * 128 + chunk * 16;
  const bool inside = byte < row_bytes;
  const auto* activations = static_cast<const unsigned char*>(p.activations);
  const auto* weights = static_cast<const unsigned char*>(p.weights);
  GPU_UNROLL
  for (int i = 0; i < (S::tile_rows + 31) / 32; i++) {
    const int row = first + i * 32;
    if (S::tile_rows >= 32 || row < S::tile_rows) {
      const bool valid = inside && row < cursor.tile.rows;
      const unsigned char* from =
          activations + (valid ? (cursor.tile.first_row + row) * row_bytes + byte : 0);
      copy_async(stage + swizzled_128(row, chunk), from, valid);
    }
  }
  GPU_UNROLL
  for (int i = 0; i < S::tile_columns / 32; i++) {
    const int column = first + i * 32;
    const bool valid = inside && cursor.tile.first_column + column < p.n;
    const std::int64_t weight_row =
        static_cast<std::int64_t>(cursor.tile.expert) * p.n + cursor.tile.first_column + column;
    const unsigned char* from = weights + (valid ? weight_row * row_bytes + byte : 0);
    copy_async(stage + S::weights_offset + swizzled_128(column, chunk), from, valid);
  }
}

// accumulators += (rows of this warp) · (columns of this warp)ᵀ over the 128 bytes of a stage.
template <class S>
GPU_DEVICE void multiply_stage(SharedAddress stage, Accumulators<S>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / S::warps_across * S::warp_rows, column0 = warp % S::warps_across * S::warp_columns;
  // A: matrices are (rows 0–7, 8–15) × (chunk, chunk + 1) with rows first; B: (chunk, chunk + 1) first.
  const int a_row = row0 + lane % 16, a_chunk = lane / 16;
  const int b_row = column0 + lane / 16 * 8 + lane % 8, b_chunk = lane / 8 % 2;
  // On sm_90 ptxas builds mma.sync of e4m3 from f16 instructions: unrolled, their operands would spill.
  ORRERY_UNROLL_BY(S::fp8 ? 1 : 4)
  for (int step = 0; step < 4; step++) {
    std::uint32_t b[S::column_fragments / 2][4];
    GPU_UNROLL
    for (int j = 0; j < S::column_fragments / 2; j++) {
      load_matrix_x4(b[j], stage + S::weights_offset + swizzled_128(b_row + 16 * j, 2 * step + b_chunk));
    }
    GPU_UNROLL
    for (int i = 0; i < S::row_fragments; i++) {
      std::uint32_t a[4];
      load_matrix_x4(a, stage + swizzled_128(a_row + 16 * i, 2 * step + a_chunk));
      GPU_UNROLL
      for (int j = 0; j < S::column_fragments; j++) {
        const std::uint32_t b0 = b[j / 2][j % 2 * 2], b1 = b[j / 2][j % 2 * 2 + 1];
        if constexpr (S::fp8) {
          mma_e4m3(sums.value[i][j], a, b0, b1);
        } else {
          mma_bf16(sums.value[i][j], a, b0, b1);
        }
      }
    }
  }
}

// The scales that a stage of e4m3 needs: asked for before its products, used after them.
template <class S>
struct StageScales {
  float row[S::row_fragments][2];

  GPU_DEVICE_MEMBER void load(const GroupedGemm& p, const Tile& tile, int step) {
    const int blocks = (p.k + 127) / 128, warp = static_cast<int>(threadIdx.x) / 32;
    const int row0 = warp / S::warps_across * S::warp_rows + static_cast<int>(threadIdx.x) % 32 / 4;
    const float* weight_scales =
        p.weight_scales + static_cast<std::int64_t>(tile.expert) * ((p.n + 127) / 128) * blocks;
    const float weight = weight_scales[static_cast<std::int64_t>(tile.first_column / 128) * blocks + step];
    GPU_UNROLL
    for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL
      for (int half = 0; half < 2; half++) {
        const int r = row0 + 16 * i + 8 * half;
        const std::int64_t at = static_cast<std::int64_t>(tile.first_row + r) * blocks + step;
        row[i][half] = r < tile.rows ? p.activation_scales[at] * weight : 0.0f;
      }
    }
  }

  GPU_DEVICE_MEMBER void add(const Accumulators<S>& block, Accumulators<S>& total) const {
    GPU_UNROLL
    for (int i = 0; i < S::row_fragments; i++) {
      GPU_UNROLL
      for (int j = 0; j < S::column_fragments; j++) {
        GPU_UNROLL
        for (int c = 0; c < 4; c++) total.value[i][j][c] += block.value[i][j][c] * row[i][c / 2];
      }
    }
  }
};

template <class S>
GPU_DEVICE void store_tile(const GroupedGemm& p, const Tile& tile, const Accumulators<S>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row0 = warp / S::warps_across * S::warp_rows + lane / 4;
  const int column0 = tile.first_column + warp % S::warps_across * S::warp_columns + lane % 4 * 2;
  auto* out = static_cast<std::uint16_t*>(p.out);
  GPU_UNROLL
  for (int i = 0; i < S::row_fragments; i++) {
    GPU_UNROLL
    for (int half = 0; half < 2; half++) {
      const int row = row0 + 16 * i + 8 * half;
      if (row >= tile.rows) continue;
      std::uint16_t* to = out + static_cast<std::int64_t>(tile.first_row + row) * p.n;
      GPU_UNROLL
      for (int j = 0; j < S::column_fragments; j++) {
        const int column = column0 + 8 * j;
        const std::uint32_t two = gpu_pack_bf16(sums.value[i][j][2 * half], sums.value[i][j][2 * half + 1]);
        if (p.n % 2 == 0 && column < p.n) {
          *reinterpret_cast<std::uint32_t*>(to + column) = two;
        } else {
          if (column < p.n) to[column] = static_cast<std::uint16_t>(two);
          if (column + 1 < p.n) to[column + 1] = static_cast<std::uint16_t>(two >> 16);
        }
      }
    }
  }
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
  for (int s = 0; s < S::stages - 1; s++) {
    if (!loading.done()) load_stage<S>(p, loading, stages + s * S::stage_bytes);
    copy_async_commit();
    loading.advance(table, p.row_offsets);
  }
  Accumulators<S> total, block;
  int slot = 0, free_slot = S::stages - 1;
  while (!computing.done()) {
    if (computing.step == 0) total.clear();
    copy_async_wait<S::stages - 2>();
    gpu_barrier();  // the stage is there for all, and all are through with the one before
    if (!loading.done()) load_stage<S>(p, loading, stages + free_slot * S::stage_bytes);
    copy_async_commit();
    loading.advance(table, p.row_offsets);
    if constexpr (S::fp8) {
      StageScales<S> scales;
      scales.load(p, computing.tile, computing.step);
      block.clear();
      multiply_stage<S>(stages + slot * S::stage_bytes, block);
      scales.add(block, total);
    } else {
      multiply_stage<S>(stages + slot * S::stage_bytes, total);
    }
    if (computing.last_step()) store_tile<S>(p, computing.tile, total);
    computing.advance(table, p.row_offsets);
    slot = slot + 1 == S::stages ? 0 : slot + 1;
    free_slot = free_slot + 1 == S::stages ? 0 : free_slot + 1;
  }
  copy_async_wait<0>();
}

template <class S>
void launch_shape(const GroupedGemm& p, void* stream) {
  // No more blocks than there can be tiles: rows are split by expert, so each expert may add one tile.
  const std::int64_t row_tiles = p.rows / S::tile_rows + p.experts;
  const std::int64_t tiles = row_tiles * ((p.n + S::tile_columns - 1) / S::tile_columns);
  const std::int64_t units = p.compute_units > 0 ? p.compute_units : std::int64_t{gpu_compute_units()};
  constexpr std::int64_t shared_per_unit = 220 * 1024;
  std::int64_t fit = shared_per_unit / (S::shared_bytes + 1024);
  fit = fit < 1 ? 1 : (fit > S::blocks_per_unit ? S::blocks_per_unit : fit);
  const std::int64_t blocks = tiles < units * fit ? tiles : units * fit;
  if (blocks == 0) return;
  launch_shared(grouped_gemm_kernel<S>, {static_cast<unsigned>(blocks)}, S::threads, S::shared_bytes, stream,
                p);
}

template <bool Fp8>
void launch_type(const GroupedGemm& p, std::int32_t tile_rows, void* stream) {
  switch (tile_rows) {
    case 16: return launch_shape<Shape<Fp8, 16, 16, 16, 3>>(p, stream);
    case 32: return launch_shape<Shape<Fp8, 32, 32, 16, 4>>(p, stream);
    case 64: return launch_shape<Shape<Fp8, 64, 32, 32, 4>>(p, stream);
    default: return launch_shape<Shape<Fp8, 128, 64, 32, 3>>(p, stream);
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
