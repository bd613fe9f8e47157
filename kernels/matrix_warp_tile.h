// What a warp holds of a product whose tile several warps share: row and column tiles of 16 (matrix_tile.h).
#pragma once

#include "kernels/matrix_tile.h"

namespace orrery::kernels {

template <int RowTiles, int ColumnTiles>
struct WarpTile {
  MatrixTile tile[RowTiles][ColumnTiles];

  GPU_DEVICE_MEMBER void clear() {
    GPU_UNROLL
    for (int i = 0; i < RowTiles; i++) {
      GPU_UNROLL
      for (int j = 0; j < ColumnTiles; j++) {
        GPU_UNROLL
        for (int c = 0; c < 4 * tile_parts; c++) tile[i][j].value[c / 4][c % 4] = 0;
      }
    }
  }
};

// To rows of n bf16: the warp's tile begins at row `row0` of out, of which there are `rows`, and column
// `column0`.
template <int RowTiles, int ColumnTiles>
GPU_DEVICE void store_warp_tile(std::uint16_t* out, int n, int rows, int row0, int column0,
                                const WarpTile<RowTiles, ColumnTiles>& sums) {
  GPU_UNROLL
  for (int i = 0; i < RowTiles; i++) {
    GPU_UNROLL
    for (int held = 0; held < tile_rows_held; held++) {
      const int row = row0 + 16 * i + tile_row(held);
      if (row >= rows) continue;
      std::uint16_t* to = out + std::int64_t{row} * n;
      GPU_UNROLL
      for (int j = 0; j < ColumnTiles; j++) {
        GPU_UNROLL
        for (int run = 0; run < tile_runs; run++) {
          store_run<tile_run>(to, column0 + 16 * j + tile_column(run, 2 * held), n,
                              &sums.tile[i][j].value[run][2 * held]);
        }
      }
    }
  }
}

}  // namespace orrery::kernels
