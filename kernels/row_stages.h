// Products of rows of activations with rows of weights on matrix cores (matrix_tile.h), as both portable
// forms with 8-bit or bf16 weights make them: a block walks over tiles, and a stage of its pipeline is 128
// bytes of k for every row of the tile, 64 bf16 or 128 e4m3, which is exactly one block of scales. Loads run
// ahead across the borders of tiles: by cp.async or, where there is no such copy, by one stage in registers.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/grouped_tiles.h"
#include "kernels/matrix_warp_tile.h"

namespace orrery::kernels {

template <bool Fp8, int TileRows, int WarpRows, int WarpColumns, int Stages>
struct RowStages {
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
  static_assert(TileRows / WarpRows * warps_across * GPU_WARP == threads);

  // Of this thread's warp, in the tile.
  GPU_DEVICE_MEMBER static int first_row() {
    return static_cast<int>(threadIdx.x) / GPU_WARP / warps_across * warp_rows;
  }
  GPU_DEVICE_MEMBER static int first_column() {
    return static_cast<int>(threadIdx.x) / GPU_WARP % warps_across * warp_columns;
  }
};

template <class S>
using RowSums = WarpTile<S::row_tiles, S::column_tiles>;

// Both operands, rows of `row_bytes`; `n` rows of weights an expert.
struct RowOperands {
  const void* activations;
  const void* weights;
  std::int64_t row_bytes;
  std::int32_t n;
};

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

// One stage, 16-byte chunks, eight to a row: calls copy(index, from, valid). Rows beyond the tile, columns
// beyond n and bytes beyond k are not valid and count as zeros.
template <class S, class Copy>
GPU_DEVICE void for_stage(const RowOperands& of, const Tile& tile, int step, Copy copy) {
  const int chunk = static_cast<int>(threadIdx.x) % 8, first = static_cast<int>(threadIdx.x) / 8;
  const std::int64_t byte = static_cast<std::int64_t>(step) * 128 + chunk * 16;
  const bool inside = byte < of.row_bytes;
  const auto* activations = static_cast<const unsigned char*>(of.activations);
  const auto* weights = static_cast<const unsigned char*>(of.weights);
  GPU_UNROLL
  for (int i = 0; i < S::row_copies; i++) {
    const int row = first + i * S::copied_rows;
    const bool valid = inside && row < tile.rows;
    copy(i, activations + (valid ? (tile.first_row + row) * of.row_bytes + byte : 0), valid);
  }
  GPU_UNROLL
  for (int i = 0; i < S::tile_columns / S::copied_rows; i++) {
    const int column = first + i * S::copied_rows;
    const bool valid = inside && tile.first_column + column < of.n;
    const std::int64_t weight_row =
        static_cast<std::int64_t>(tile.expert) * of.n + tile.first_column + column;
    copy(S::row_copies + i, weights + (valid ? weight_row * of.row_bytes + byte : 0), valid);
  }
}

// The stage that comes next, in registers: loads are under way while products are taken of the stage before.
template <class S>
struct StageInRegisters {
  static constexpr int copies = S::row_copies + S::tile_columns / S::copied_rows;
  GpuBytes16 chunk[copies];

  GPU_DEVICE_MEMBER void load(const RowOperands& of, const Tile& tile, int step) {
    for_stage<S>(of, tile, step, [&](int index, const unsigned char* from, bool valid) {
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
GPU_DEVICE void multiply_stage(SharedAddress stage, RowSums<S>& sums) {
  const int row0 = S::first_row(), column0 = S::first_column();
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

// Scales by block of a stage of e4m3: asked for before its products, used after them. `weight` is that of the
// tile's columns; scales of rows lie at row · of_row + step · of_step.
template <class S>
struct StageScales {
  float row[S::row_tiles][tile_rows_held];

  GPU_DEVICE_MEMBER void load(const float* scales, std::int64_t of_row, std::int64_t of_step, float weight,
                              const Tile& tile, int step) {
    GPU_UNROLL
    for (int i = 0; i < S::row_tiles; i++) {
      GPU_UNROLL
      for (int held = 0; held < tile_rows_held; held++) {
        const int r = S::first_row() + 16 * i + tile_row(held);
        const std::int64_t at = static_cast<std::int64_t>(tile.first_row + r) * of_row + step * of_step;
        row[i][held] = r < tile.rows ? scales[at] * weight : 0.0f;
      }
    }
  }
  GPU_DEVICE_MEMBER void set_to_one() {  // where others come after the last step
    GPU_UNROLL
    for (int i = 0; i < S::row_tiles; i++) {
      GPU_UNROLL
      for (int held = 0; held < tile_rows_held; held++) row[i][held] = 1;
    }
  }
  GPU_DEVICE_MEMBER void add(const RowSums<S>& block, RowSums<S>& total) const {
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
GPU_DEVICE void store_tile(void* out, std::int32_t n, const Tile& tile, const RowSums<S>& sums) {
  store_warp_tile(static_cast<std::uint16_t*>(out) + std::int64_t{tile.first_row} * n, n, tile.rows,
                  S::first_row(), tile.first_column + S::first_column(), sums);
}

// From `loading`, a place at the first tile and step, on to the last: done(), here(), step; `advance(place)`
// moves one. compute(place, stage, total) takes the products of a stage that is there; total is zeros at a
// tile's first step.
template <class S, class Place, class Advance, class Compute>
GPU_DEVICE void walk_stages(const RowOperands& of, unsigned char* shared, Place loading, Advance advance,
                            Compute compute) {
  const SharedAddress stages = shared_address(shared);
  Place computing = loading;
  RowSums<S> total;
  if constexpr (copies_run_ahead) {
    const auto load_next = [&](int slot) {
      if (!loading.done()) {
        for_stage<S>(of, loading.here(), loading.step, [&](int index, const unsigned char* from, bool valid) {
          std::uint32_t to = 0;
          if (copy_place<S>(index, to)) copy_async(stages + slot * S::stage_bytes + to, from, valid);
        });
      }
      copy_async_commit();
      advance(loading);
    };
    for (int s = 0; s < S::stages - 1; s++) load_next(s);
    int slot = 0, free_slot = S::stages - 1;
    while (!computing.done()) {
      if (computing.step == 0) total.clear();
      copy_async_wait<S::stages - 2>();
      gpu_barrier();  // the stage is there for all, and all are through with the one before
      load_next(free_slot);
      compute(computing, stages + slot * S::stage_bytes, total);
      advance(computing);
      slot = slot + 1 == S::stages ? 0 : slot + 1;
      free_slot = free_slot + 1 == S::stages ? 0 : free_slot + 1;
    }
    copy_async_wait<0>();
  } else {
    StageInRegisters<S> next;
    if (!loading.done()) next.load(of, loading.here(), loading.step);
    while (!computing.done()) {
      if (computing.step == 0) total.clear();
      gpu_barrier();  // all are through with the stage before
      next.lay_down(shared);
      gpu_barrier();
      advance(loading);
      if (!loading.done()) next.load(of, loading.here(), loading.step);
      compute(computing, stages, total);
      advance(computing);
    }
  }
}

}  // namespace orrery::kernels
