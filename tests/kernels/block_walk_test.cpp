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

namespace {

struct PartsProblem {
  BlockGemm p;
  BlockTileUnit unit;
  std::int32_t* parts;  // [rows][n]: a bit for each part that some block makes; 2¹⁶ each time it is made
                        // whole
};

void parts_kernel(const PartsProblem problem) {
  ORRERY_DYNAMIC_SHARED(shared, sizeof(BlockTileTable));
  const BlockTileTable& table = *reinterpret_cast<BlockTileTable*>(shared);
  const BlockGemm& p = problem.p;
  BlockWalk<rows_a_tile, columns_a_tile, true> walk(table, p, problem.unit, 0);
  for (; !walk.done() && threadIdx.x == 0; walk.next(table, p, problem.unit)) {
    const bool in_parts = walk.in_parts(problem.unit);
    for (std::int32_t r = 0; r < walk.tile.rows; ++r) {
      const std::int32_t end = std::min(p.n, walk.tile.first_column + columns_a_tile);
      for (std::int32_t c = walk.tile.first_column; c < end; ++c)
        problem.parts[(walk.tile.first_row + r) * p.n + c] +=
            in_parts ? 1 << walk.part(problem.unit) : 1 << 16;
    }
  }
}

}  // namespace

TEST_CASE("the last tiles of a product are made in parts, each once, all others whole", "[kernels]") {
  for (const std::int32_t rows : {16, 100, 2100}) {
    for (const std::int32_t blocks : {3, 16, 37}) {
      CAPTURE(rows, blocks);
      BlockGemm p;
      p.n = 136;  // three tiles across
      p.rows = rows;
      const std::int32_t tiles = (rows + rows_a_tile - 1) / rows_a_tile * 3;
      BlockTileUnit unit;
      unit.tail = block_gemm_tail(tiles, blocks, 56);
      const std::int32_t left = tiles - unit.tail.first;
      CHECK(left < blocks);
      CHECK(left * unit.tail.parts <= blocks);
      const std::int32_t launched = unit.tail.first > 0 ? blocks : left * unit.tail.parts;
      std::vector<std::int32_t> parts(static_cast<std::size_t>(rows * p.n));
      gpu_launch(parts_kernel, {static_cast<unsigned>(launched)}, threads, nullptr,
                 PartsProblem{p, unit, parts.data()});
      const std::int32_t all = unit.tail.parts > 1 ? (1 << unit.tail.parts) - 1 : 1 << 16;
      const auto whole = std::count(parts.begin(), parts.end(), 1 << 16);
      const auto split = std::count(parts.begin(), parts.end(), all);
      CHECK(static_cast<std::size_t>(unit.tail.parts > 1 ? whole + split : whole) == parts.size());
      CHECK((split > 0) == (left > 0 || unit.tail.parts == 1));
    }
  }
}

TEST_CASE("the tail of a product is made in as many parts as there is work and room for", "[kernels]") {
  CHECK(block_gemm_tail(136, 132, 56).first == 132);
  CHECK(block_gemm_tail(136, 132, 56).parts == 8);  // four tiles by 32 blocks
  CHECK(block_gemm_tail(136, 132, 12).parts == 3);  // of four steps at least
  CHECK(block_gemm_tail(187, 132, 56).parts == 2);  // 55 tiles
  CHECK(block_gemm_tail(220, 132, 56).parts == 1);  // 88
  CHECK(block_gemm_tail(264, 132, 56).parts == 1);
  BlockGemm p;
  p.rows = 2048;
  p.n = 2112;
  p.k = 7168;
  CHECK(block_gemm_tail_of(p, {192, 128}, 132).parts == 1);  // no workspace
  p.workspace_bytes = block_gemm_workspace(132);
  CHECK(block_gemm_tail_of(p, {192, 128}, 132).parts == 2);
  CHECK(block_gemm_tail_of(p, {128, 128}, 132).parts == 1);  // a form that looks ahead
  p.workspace_bytes /= 8;
  CHECK(block_gemm_tail_of(p, {192, 128}, 132).parts == 1);
  p.workspace_bytes = block_gemm_workspace(132);
  p.rows = 128;
  CHECK(block_gemm_tail_of(p, {128, 192}, 132).parts == 1);
  p.rows = 8192;  // 24 waves and a tenth: nothing to gain
  p.n = 4096;
  p.k = 256;
  CHECK(block_gemm_tail_of(p, {128, 192}, 132).parts == 1);
}

TEST_CASE("bands of a dense product are of equal height, of 2,048 rows at most", "[kernels]") {
  CHECK(block_gemm_band(4096, 192) == 8);  // 22 tiles: 8, 8 and 6, not 10, 10 and 2
  CHECK(block_gemm_band(2048, 256) == 8);
  CHECK(block_gemm_band(8192, 256) == 8);
  CHECK(block_gemm_band(1, 16) == 1);
  BlockGemm p;
  p.n = 64;
  p.rows = 2100;
  BlockTileUnit unit;
  unit.band = block_gemm_band(p.rows, rows_a_tile);
  CHECK(unit.band == 66);
  CHECK(made(p, unit, 3) == std::vector<std::int32_t>(static_cast<std::size_t>(p.rows * p.n), 1));
}
