// Which part of out a block of threads makes next, for every layout of rows (block_gemm.h). Blocks that share
// copies (a cluster) take a unit of tiles together, side by side.
#pragma once

#include "kernels/block_gemm.h"
#include "kernels/grouped_tiles.h"

namespace orrery::kernels {

using BlockTileTable = TileTable<block_gemm_max_experts>;

GPU_DEVICE ExpertRows expert_rows_of(const BlockGemm& p) {
  return p.layout == BlockGemmExperts::masked ? ExpertRows(p.expert_rows, p.slots)
                                              : ExpertRows(p.row_offsets);
}

// How many tiles lie side by side in a unit, and how many blocks share each of them.
struct BlockTileUnit {
  std::int32_t row_blocks = 1, column_blocks = 1, splits = 1;
  std::int32_t band = 0;  // of a dense product: block_gemm_band; 0: 2,048 rows
  BlockTail tail{};       // of a walk that knows tails
  GPU_DEVICE_MEMBER std::int32_t blocks() const { return row_blocks * column_blocks * splits; }
};

// By all threads, before the walk; ends with a barrier when there are experts.
template <int Threads, int Rows, int Columns>
GPU_DEVICE void prepare_block_walk(BlockTileTable& table, const BlockGemm& p, const BlockTileUnit& unit) {
  if (p.layout == BlockGemmExperts::none) return;
  fill_tile_table<Threads>(table, expert_rows_of(p), p.experts, Rows * unit.row_blocks,
                           Columns * unit.column_blocks, p.n);
}

// Over tiles of Rows × Columns; with Tails, where units are one tile, the last may come in parts.
template <int Rows, int Columns, bool Tails = false>
struct BlockWalk {
  Tile tile;                        // rows may be 0 or less: a unit reaches beyond the rows
  std::int32_t index, count, rank;  // rank: of this block in its unit

  GPU_DEVICE_MEMBER BlockWalk(const BlockTileTable& table, const BlockGemm& p, const BlockTileUnit& unit,
                              std::int32_t rank_in_unit)
      : rank(rank_in_unit) {
    index = static_cast<std::int32_t>(blockIdx.x) / unit.blocks();
    count = p.layout == BlockGemmExperts::none ? row_units(p, unit) * column_units(p, unit)
                                               : table.first[table.experts];
    if constexpr (Tails) count += (count - unit.tail.first) * (unit.tail.parts - 1);
    locate(table, p, unit);
  }
  GPU_DEVICE_MEMBER bool done() const { return index >= count; }
  // Whether this tile is made in parts, which of those tiles it is, and which part is this block's.
  GPU_DEVICE_MEMBER bool in_parts(const BlockTileUnit& unit) const {
    return Tails && unit.tail.parts > 1 && index >= unit.tail.first;
  }
  GPU_DEVICE_MEMBER std::int32_t tail_tile(const BlockTileUnit& unit) const {
    return (index - unit.tail.first) / unit.tail.parts;
  }
  GPU_DEVICE_MEMBER std::int32_t part(const BlockTileUnit& unit) const {
    return (index - unit.tail.first) % unit.tail.parts;
  }
  GPU_DEVICE_MEMBER void next(const BlockTileTable& table, const BlockGemm& p, const BlockTileUnit& unit) {
    index += static_cast<std::int32_t>(gridDim.x) / unit.blocks();
    locate(table, p, unit);
  }

 private:
  GPU_DEVICE_MEMBER static std::int32_t row_units(const BlockGemm& p, const BlockTileUnit& unit) {
    return (p.rows + Rows * unit.row_blocks - 1) / (Rows * unit.row_blocks);
  }
  GPU_DEVICE_MEMBER static std::int32_t column_units(const BlockGemm& p, const BlockTileUnit& unit) {
    return (p.n + Columns * unit.column_blocks - 1) / (Columns * unit.column_blocks);
  }

  GPU_DEVICE_MEMBER void locate(const BlockTileTable& table, const BlockGemm& p, const BlockTileUnit& unit) {
    if (done()) return;
    tile = p.layout == BlockGemmExperts::none ? dense_unit(p, unit)
                                              : grouped_tile(table, expert_rows_of(p), index);
    if (unit.row_blocks > 1) {
      tile.first_row += rank * Rows;
      tile.rows -= rank * Rows;
    }
    if (tile.rows > Rows) tile.rows = Rows;
    if (unit.column_blocks > 1) tile.first_column += rank * Columns;
  }

  // About 2,048 rows are walked over all columns before the next: what runs at once is then about as tall as
  // wide, and reads the least from memory.
  GPU_DEVICE_MEMBER Tile dense_unit(const BlockGemm& p, const BlockTileUnit& unit) const {
    const std::int32_t unit_rows = Rows * unit.row_blocks, all = row_units(p, unit);
    const std::int32_t band = unit.band > 0 ? unit.band : 2048 / unit_rows,
                       each = band * column_units(p, unit);
    const std::int32_t at = Tails && in_parts(unit) ? unit.tail.first + tail_tile(unit) : index;
    const std::int32_t first = at / each * band, within = at % each;
    const std::int32_t height = all - first < band ? all - first : band;
    Tile whole;
    whole.first_row = (first + within % height) * unit_rows;
    whole.rows = p.rows - whole.first_row;
    whole.first_column = within / height * Columns * unit.column_blocks;
    return whole;
  }
};

// Tiles in turn, and a step of 128 features in within each.
template <int Rows, int Columns>
struct BlockSteps {
  BlockWalk<Rows, Columns> walk;
  std::int32_t step = 0, steps;

  GPU_DEVICE_MEMBER BlockSteps(const BlockTileTable& table, const BlockGemm& p)
      : walk(table, p, BlockTileUnit{}, 0), steps((p.k + 127) / 128) {}
  GPU_DEVICE_MEMBER bool done() const { return walk.done(); }
  GPU_DEVICE_MEMBER bool last() const { return step + 1 == steps; }
  GPU_DEVICE_MEMBER const Tile& here() const { return walk.tile; }
  GPU_DEVICE_MEMBER void advance(const BlockTileTable& table, const BlockGemm& p) {
    if (++step < steps) return;
    step = 0;
    walk.next(table, p, BlockTileUnit{});
  }
};

}  // namespace orrery::kernels
