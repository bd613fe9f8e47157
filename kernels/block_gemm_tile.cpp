// Which tile block_gemm_wgmma takes when nobody says: the one that should be through first. What a step takes
// on a part is near enough constant per tile (the search on an H200,
// reports/results/kernels_h200_fp8_block.md), so what decides is how many waves of tiles there are.
#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/block_gemm.h"

namespace orrery::kernels {

namespace {

struct Candidate {
  BlockGemmTile tile;
  double step_ns;  // 128 features in, every multiprocessor of an H200 busy
  bool by_block = true, by_channel = true, dense = true;
};
constexpr std::array candidates{
    Candidate{{16, 64, true, 8, SharedCopies::none}, 255},
    Candidate{{16, 128, true, 8, SharedCopies::none}, 265},
    // Two blocks a multiprocessor: the end of a tile is hidden, and one expert's few tiles would not fill
    // them.
    Candidate{{16, 128, true, 4, SharedCopies::none, 1, 2}, 180, true, true, false},
    Candidate{{32, 64, true, 8, SharedCopies::none}, 255},
    Candidate{{32, 128, true, 8, SharedCopies::none}, 300},
    Candidate{{64, 64, true, 8, SharedCopies::none}, 290},
    Candidate{{64, 128, false, 8, SharedCopies::none}, 330},
    Candidate{{128, 64, false, 8, SharedCopies::none}, 325},
    Candidate{{128, 128, false, 6, SharedCopies::none}, 465},
    Candidate{{128, 192, false, 4, SharedCopies::none}, 652},
    Candidate{{192, 128, false, 4, SharedCopies::none}, 615},
    Candidate{{192, 128, false, 4, SharedCopies::activations}, 610},
    Candidate{{256, 128, false, 4, SharedCopies::none}, 845, true, false},
    Candidate{{128, 256, false, 4, SharedCopies::none}, 845, false, true},
    // Few tiles: the features in of one shared out over the blocks of a cluster.
    Candidate{{16, 64, true, 8, SharedCopies::none, 2}, 255},
    Candidate{{16, 64, true, 8, SharedCopies::none, 3}, 255},
    Candidate{{16, 128, true, 8, SharedCopies::none, 2}, 265},
    Candidate{{16, 128, true, 8, SharedCopies::none, 3}, 265},
    Candidate{{32, 64, true, 8, SharedCopies::none, 2}, 255},
    Candidate{{32, 64, true, 8, SharedCopies::none, 3}, 255},
    Candidate{{32, 128, true, 8, SharedCopies::none, 2}, 300},
    Candidate{{64, 64, true, 8, SharedCopies::none, 2}, 290},
    Candidate{{64, 64, true, 8, SharedCopies::none, 3}, 290},
    Candidate{{64, 128, true, 7, SharedCopies::none, 2}, 400},
    Candidate{{64, 128, false, 7, SharedCopies::none, 2}, 330},
    Candidate{{128, 64, false, 7, SharedCopies::none, 2}, 325},
    Candidate{{128, 128, false, 4, SharedCopies::none, 2}, 465},
};

constexpr std::int64_t over(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr double end_of_tile = 2.3;  // what storing one and filling the ring again costs, in steps

// Steps of a product whose last tiles are made in parts. Laying sums down, waiting for the others' and adding
// them up costs as much as some steps, more where that is all that a block does; all of the kernel is a
// little slower (an H200).
double tail_steps(const BlockTail& tail, std::int64_t units, double steps) {
  constexpr double slower = 1.03;
  const double joining = tail.first > 0 ? 6 : 20;
  const auto waves = static_cast<double>(tail.first / units);
  return slower * (waves * (steps + end_of_tile) + steps / tail.parts + end_of_tile) + joining;
}

// Nanoseconds of `experts` products with `each` rows.
double takes(const BlockGemm& p, const Candidate& c, std::int64_t experts, std::int64_t each,
             std::int64_t units) {
  constexpr double memory = 4200;  // bytes a nanosecond
  constexpr double warm = 0.3;     // what a byte of activations costs beside one of cold weights
  constexpr double splitting = 4000, each_more = 1200;  // starting a cluster of two, adding its sums up
  const BlockGemmTile& t = c.tile;
  const std::int64_t blocks = (t.shared == SharedCopies::none ? 1 : 2) * t.splits;
  const std::int64_t down = over(each, t.rows * (t.shared == SharedCopies::weights ? 2 : 1));
  const std::int64_t across = over(p.n, t.columns * (t.shared == SharedCopies::activations ? 2 : 1));
  const std::int64_t tiles = experts * down * across * blocks;
  // A step brings weights that nobody has read yet, or that the row of tiles before has.
  const double height = static_cast<double>(down);
  const double bytes = 128 * (t.columns * (1 + warm * (height - 1)) / height + warm * t.rows);
  const double steps = t.splits > 1 ? static_cast<double>(over(over(p.k, 128), t.splits)) : p.k / 128.0;
  const double splits = t.splits > 1 ? splitting + each_more * (t.splits - 2) : 0;
  const auto waves = static_cast<double>(over(tiles, units / blocks * blocks));
  if (experts > 1) {  // many short tiles: memory goes on while they end, and knows no waves
    const double reading = bytes * static_cast<double>(tiles) * steps / memory;
    return std::max(waves * (c.step_ns * (steps + end_of_tile) + splits),
                    reading + c.step_ns * end_of_tile + splits);
  }
  const double step = std::max(c.step_ns, bytes * static_cast<double>(std::min(units, tiles)) / memory);
  const BlockTail tail = block_gemm_tail_of(p, t, static_cast<std::int32_t>(units));
  if (tail.parts > 1) return step * tail_steps(tail, units, steps);
  return waves * (step * (steps + end_of_tile) + splits);
}

// Experts that have rows, of which each has `each` on average, rounded up: as many as a draw at random
// leaves, within what the rounding allows.
std::int64_t busy_experts(std::int64_t experts, std::int64_t rows, std::int64_t each) {
  const std::int64_t least = std::min(experts, over(rows, each));
  const std::int64_t most = each <= 1 ? least : std::min(experts, (rows - 1) / (each - 1));
  const auto of = static_cast<double>(experts);
  const double drawn = of * (1 - std::pow(1 - 1 / of, static_cast<double>(rows)));
  return std::max(least, std::min(most, static_cast<std::int64_t>(std::lround(drawn))));
}

}  // namespace

BlockTail block_gemm_tail_of(const BlockGemm& p, const BlockGemmTile& t, std::int32_t compute_units) {
  if (p.workspace_bytes == 0 || p.layout != BlockGemmExperts::none || !block_gemm_has_tails(t)) return {};
  const std::int64_t tiles = over(p.rows, t.rows) * over(p.n, t.columns), steps = over(p.k, 128);
  const BlockTail tail = block_gemm_tail(tiles, compute_units, steps);
  // Below, tiles of fewer rows do, or memory is what is waited for.
  if (p.rows <= (tail.first > 0 ? 256 : 128)) return {};
  const std::int64_t sums = (tiles - tail.first) * tail.parts * t.rows * t.columns * 4;
  const auto whole =
      static_cast<double>(over(tiles, compute_units)) * (static_cast<double>(steps) + end_of_tile);
  const bool gains = tail_steps(tail, compute_units, static_cast<double>(steps)) < 0.99 * whole;
  return tail.parts > 1 && gains && block_gemm_counter_bytes + sums <= p.workspace_bytes ? tail : BlockTail{};
}

BlockGemmTile block_gemm_tile(const BlockGemm& p, std::int32_t compute_units) {
  const std::int64_t experts = p.layout == BlockGemmExperts::none ? 1 : p.experts;
  const std::int64_t each = p.rows_each > 0 ? p.rows_each : over(p.rows, std::max<std::int64_t>(experts, 1));
  // Of rows one after the other it is known how many experts share them.
  const bool known = p.layout == BlockGemmExperts::contiguous && p.rows_each > 0;
  const std::int64_t busy = known ? busy_experts(experts, p.rows, each) : experts;
  const Candidate* best = nullptr;
  double least = 0;
  for (const Candidate& c : candidates) {
    if (!(p.by_channel ? c.by_channel : c.by_block) || (experts == 1 && !c.dense)) continue;
    if (c.tile.blocks > 1 && busy * over(p.n, c.tile.columns) <= compute_units) continue;
    const double ns = takes(p, c, busy, each, compute_units);
    if (best != nullptr && ns >= least) continue;
    best = &c;
    least = ns;
  }
  return best->tile;
}

}  // namespace orrery::kernels
