// Which tile of a grouped GEMM comes next, from the rows per expert that lie on the device: a block computes
// the table once and then walks over tiles blockIdx.x, + gridDim.x, …
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

// In shared memory. first[e]: tiles before expert e.
template <int MaxExperts>
struct TileTable {
  std::int32_t first[MaxExperts + 1];
  std::int32_t of_warps[32];  // while it is filled
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

// By all threads of the block; ends with a barrier. Prefix sums within threads, warps and the block: every
// product of experts waits for them before its first copy.
template <int Threads, int MaxExperts>
GPU_DEVICE void fill_tile_table(TileTable<MaxExperts>& table, const ExpertRows& expert_rows,
                                std::int32_t experts, std::int32_t tile_rows, std::int32_t tile_columns,
                                std::int32_t n) {
  const std::int32_t column_tiles = (n + tile_columns - 1) / tile_columns;
  constexpr std::int32_t each = (MaxExperts + Threads - 1) / Threads;
  const std::int32_t lane = static_cast<std::int32_t>(gpu_lane());
  const std::int32_t warp = static_cast<std::int32_t>(gpu_warp_index());
  const std::int32_t own = static_cast<std::int32_t>(threadIdx.x) * each;  // this thread's first expert
  std::int32_t up_to[each], sum = 0;
  GPU_UNROLL for (std::int32_t i = 0; i < each; i++) {
    const std::int32_t rows = own + i < experts ? expert_rows.count(own + i) : 0;
    sum += (rows + tile_rows - 1) / tile_rows * column_tiles;
    up_to[i] = sum;
  }
  std::int32_t before = sum;  // and with this thread's, of the warp
  for (std::int32_t distance = 1; distance < GPU_WARP; distance *= 2) {
    const std::int32_t other =
        gpu_shuffle(before, static_cast<unsigned>(lane >= distance ? lane - distance : lane));
    if (lane >= distance) before += other;
  }
  if (lane == GPU_WARP - 1) table.of_warps[warp] = before;
  if (threadIdx.x == 0) {
    table.first[0] = 0;
    table.experts = experts;
    table.tile_rows = tile_rows;
    table.tile_columns = tile_columns;
    table.column_tiles = column_tiles;
  }
  gpu_barrier();
  before -= sum;
  for (std::int32_t w = 0; w < warp; w++) before += table.of_warps[w];
  GPU_UNROLL for (std::int32_t i = 0; i < each; i++) {
    if (own + i < experts) table.first[own + i + 1] = before + up_to[i];
  }
  gpu_barrier();
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
  GPU_DEVICE_MEMBER const Tile& here() const { return tile; }

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
