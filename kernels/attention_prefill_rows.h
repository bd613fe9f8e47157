// Which rows a block of the prefill kernels works on, on any matrix core.
#pragma once

#include "kernels/attention_fragments.h"
#include "kernels/attention_prefill.h"
#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

// What a block works on, and where its rows lie.
struct PrefillRows {
  PrefillTile tile;
  int group, kv_head, count, tokens;  // rows in this tile; tokens that its last row sees

  GPU_DEVICE_MEMBER void start(const AttentionPrefill& p) {
    tile = p.tiles[static_cast<int>(blockIdx.x) / p.kv_heads];
    kv_head = static_cast<int>(blockIdx.x) % p.kv_heads;
    group = p.heads / p.kv_heads;
    const int left = tile.new_tokens * group - tile.first_row;
    count = left < prefill_tile_rows ? left : prefill_tile_rows;
    tokens = visible(count - 1);
  }
  // How many tokens row `row` of the tile sees.
  GPU_DEVICE_MEMBER int visible(int row) const { return tile.context + (tile.first_row + row) / group + 1; }
  // Of queries and out.
  GPU_DEVICE_MEMBER std::int64_t index(const AttentionPrefill& p, int row) const {
    const int token = (tile.first_row + row) / group, head = (tile.first_row + row) % group;
    return (tile.first_token + static_cast<std::int64_t>(token)) * p.heads + kv_head * group + head;
  }
};

// A warp's 16 rows from `first` on, divided by their sums.
template <int HeadDim>
GPU_DEVICE void store_rows(const AttentionPrefill& p, const PrefillRows& at, int first,
                           SoftmaxRows<HeadDim>& rows) {
  rows.finish_sums();
  GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
    const int row = first + tile_row(half);
    if (row >= at.count) continue;
    const float inverse = gpu_reciprocal(rows.sum[half]);
    std::uint16_t* out = static_cast<std::uint16_t*>(p.out) + at.index(p, row) * HeadDim;
    GPU_UNROLL for (int tile = 0; tile < HeadDim / 16; tile++) {
      GPU_UNROLL for (int run = 0; run < tile_runs; run++) {
        float values[tile_run];
        GPU_UNROLL for (int i = 0; i < tile_run; i++) {
          values[i] = rows.out[tile_parts * tile + run + i / 4][2 * half + i % 4] * inverse;
        }
        store_run<tile_run>(out, 16 * tile + tile_column(run, 2 * half), HeadDim, values);
      }
    }
  }
}

}  // namespace orrery::kernels
