// The walk over tiles that both forms of the block products share: every output once, whatever the layout of
// rows and however many blocks take a unit together. Of the wgmma form it is the part that runs here.
#include <algorithm>
#include <vector>

#include "catch.h"
#include "kernels/block_tiles.h"
#include "kernels/tensor_core.h"

using namespace orrery::kernels;

namespace {

constexpr int rows_a_tile = 16, columns_a_tile = 64, threads = 64;

struct Problem {
  BlockGemm p;
  BlockTileUnit unit;
  std::int32_t* times;  // [rows][n]: how often an output is some block's
};

void count_kernel(const Problem problem) {
  ORRERY_DYNAMIC_SHARED(shared, sizeof(BlockTileTable));
  BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(shared);
  const BlockGemm& p = problem.p;
  prepare_block_walk<threads, rows_a_tile, columns_a_tile>(table, p, problem.unit);
  const std::int32_t blocks = problem.unit.row_blocks * problem.unit.column_blocks;
  BlockWalk<rows_a_tile, columns_a_tile> walk(table, p, problem.unit,
                                              static_cast<std::int32_t>(blockIdx.x) % blocks);
  for (; !walk.done() && threadIdx.x == 0; walk.next(table, p, problem.unit)) {
    for (std::int32_t r = 0; r < walk.tile.rows; ++r) {
      const std::int32_t end = std::min(p.n, walk.tile.first_column + columns_a_tile);
      for (std::int32_t c = walk.tile.first_column; c < end; ++c)
        ++problem.times[(walk.tile.first_row + r) * p.n + c];
    }
  }
}

// How often each output is made.
std::vector<std::int32_t> made(BlockGemm p, const BlockTileUnit& unit, unsigned units_at_once) {
  std::vector<std::int32_t> times(static_cast<std::size_t>(p.rows * p.n));
  const auto blocks = units_at_once * static_cast<unsigned>(unit.row_blocks * unit.column_blocks);
  gpu_launch(count_kernel, {blocks}, threads, nullptr, Problem{p, unit, times.data()});
  return times;
}

}  // namespace

TEST_CASE("tiles of block products cover every output once", "[kernels]") {
  const std::vector<std::int32_t> offsets{0, 3, 3, 40, 56, 57}, counts{3, 0, 37, 16, 1};
  constexpr std::int32_t slots = 40;
  for (const BlockTileUnit unit : {BlockTileUnit{1, 1}, BlockTileUnit{2, 1}, BlockTileUnit{1, 2}}) {
    for (const unsigned at_once : {1U, 3U}) {
      for (const std::int32_t n : {8, 64, 200}) {
        CAPTURE(unit.row_blocks, unit.column_blocks, at_once, n);
        BlockGemm p;
        p.n = n;
        for (const std::int32_t rows : {1, 16, 100, 2100}) {  // 2100: more than a band
          p.rows = rows;
          CHECK(made(p, unit, at_once) == std::vector<std::int32_t>(static_cast<std::size_t>(rows * n), 1));
        }
        p.experts = static_cast<std::int32_t>(counts.size());
        p.layout = BlockGemmExperts::contiguous;
        p.row_offsets = offsets.data();
        p.rows = offsets.back();
        CHECK(made(p, unit, at_once) == std::vector<std::int32_t>(static_cast<std::size_t>(p.rows * n), 1));
        p.layout = BlockGemmExperts::masked;
        p.expert_rows = counts.data();
        p.slots = slots;
        p.rows = p.experts * slots;
        const auto times = made(p, unit, at_once);
        for (std::int32_t row = 0; row < p.rows; ++row) {
          const std::int32_t expected = row % slots < counts[static_cast<std::size_t>(row / slots)] ? 1 : 0;
          const auto first = times.begin() + row * n;
          REQUIRE(std::count(first, first + n, expected) == n);
        }
      }
    }
  }
}
