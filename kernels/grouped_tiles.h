// Which tile of a grouped GEMM comes next, from the rows per expert that lie on the device: a block computes
// the table once and then walks over tiles blockIdx.x, + gridDim.x, …
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

// In shared memory. first[e]: tiles before expert e.
template <int MaxExperts>
struct TileTable {
  std::int32_t first[MaxExperts + 1];
  std::int32_t experts, tile_rows, tile_columns, column_tiles;
};

struct Tile {
  std::int32_t expert = 0, first_row = 0, rows = 0, first_column = 0;
};

// Where the rows of experts lie: one after the other, or, with counts, in `slots` rows set aside for each.
struct ExpertRows {
  const std::int32_t* offsets;
  const std::int32_t* counts = nullptr;
  std::int32_t slots = 0;
  GPU_DEVICE_MEMBER ExpertRows(const std::int32_t* row_offsets) : offsets(row_offsets) {}
  GPU_DEVICE_MEMBER ExpertRows(const std::int32_t* expert_rows, std::int32_t slots_each)
      : offsets(nullptr), counts(expert_rows), slots(slots_each) {}
  GPU_DEVICE_MEMBER std::int32_t first(std::int32_t e) const {
    return counts != nullptr ? e * slots : offsets[e];
  }
  GPU_DEVICE_MEMBER std::int32_t count(std::int32_t e) const {
    return counts != nullptr ? counts[e] : offsets[e + 1] - offsets[e];
  }
};

// By all threads of the block; ends with a barrier. Prefix sums by doubling: a serial sum over 512 experts
// would cost several microseconds.
template <int Threads, int MaxExperts>
GPU_DEVICE void fill_tile_table(TileTable<MaxExperts>& table, const ExpertRows& expert_rows,
                                std::int32_t experts, std::int32_t tile_rows, std::int32_t tile_columns,
                                std::int32_t n) {
  const std::int32_t column_tiles = (n + tile_columns - 1) / tile_columns;
  const std::int32_t thread = static_cast<std::int32_t>(threadIdx.x);
  constexpr std::int32_t each = (MaxExperts + Threads - 1) / Threads;
  for (std::int32_t e = thread; e <= experts; e += Threads) {
    const std::int32_t rows = e == 0 ? 0 : expert_rows.count(e - 1);
    table.first[e] = (rows + tile_rows - 1) / tile_rows * column_tiles;
  }
  if (thread == 0) {
    table.experts = experts;
    table.tile_rows = tile_rows;
    table.tile_columns = tile_columns;
    table.column_tiles = column_tiles;
  }
  gpu_barrier();
  for (std::int32_t distance = 1; distance <= experts; distance *= 2) {
    std::int32_t before[each];
    for (std::int32_t i = 0; i < each; i++) {
      const std::int32_t e = 1 + thread + i * Threads;
      before[i] = e <= experts && e > distance ? table.first[e - distance] : 0;
    }
    gpu_barrier();
    for (std::int32_t i = 0; i < each; i++) {
      const std::int32_t e = 1 + thread + i * Threads;
      if (e <= experts) table.first[e] += before[i];
    }
    gpu_barrier();
  }
}

// Within an expert, row tiles run faster than column tiles: neighbours share weights.
template <int MaxExperts>
GPU_DEVICE Tile grouped_tile(const TileTable<MaxExperts>& table, const ExpertRows& expert_rows,
                             std::int32_t index) {
  std::int32_t low = 0, high = table.experts;  // first[low] ≤ index < first[high]
  while (high - low > 1) {
    const std::int32_t middle = (low + high) / 2;
    if (table.first[middle] <= index) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const std::int32_t within = index - table.first[low];
  const std::int32_t row_tiles = (table.first[low + 1] - table.first[low]) / table.column_tiles;
  const std::int32_t row = within % row_tiles * table.tile_rows;
  const std::int32_t left = expert_rows.count(low) - row;
  Tile tile;
  tile.expert = low;
  tile.first_row = expert_rows.first(low) + row;
  tile.rows = left < table.tile_rows ? left : table.tile_rows;
  tile.first_column = within / row_tiles * table.tile_columns;
  return tile;
}

// A place in the walk: a tile and a step of k in it.
struct TileCursor {
  Tile tile;
  std::int32_t step = 0, steps = 0, index = 0, count = 0;

  template <int MaxExperts>
  GPU_DEVICE_MEMBER void start(const TileTable<MaxExperts>& table, const std::int32_t* row_offsets,
                               std::int32_t k_steps) {
    steps = k_steps;
    index = static_cast<std::int32_t>(blockIdx.x);
    count = table.first[table.experts];
    locate(table, row_offsets);
  }
  GPU_DEVICE_MEMBER bool done() const { return index >= count; }
  GPU_DEVICE_MEMBER bool last_step() const { return step + 1 == steps; }

  template <int MaxExperts>
  GPU_DEVICE_MEMBER void advance(const TileTable<MaxExperts>& table, const std::int32_t* row_offsets) {
    if (++step < steps) return;
    step = 0;
    index += static_cast<std::int32_t>(gridDim.x);
    locate(table, row_offsets);
  }

  template <int MaxExperts>
  GPU_DEVICE_MEMBER void locate(const TileTable<MaxExperts>& table, const std::int32_t* row_offsets) {
    if (!done()) tile = grouped_tile(table, row_offsets, index);
  }
};

}  // namespace orrery::kernels
