// Which tile block_gemm_wgmma takes when nobody says: the one whose waves over the part take the fewest
// cycles.
#include <algorithm>
#include <array>

#include "kernels/block_gemm.h"

namespace orrery::kernels {

namespace {

struct Candidate {
  BlockGemmTile tile;
  double rate;  // of the tensor cores', with every multiprocessor busy and long k: from the search on an H200
                // (reports/results/kernels_h200_fp8_block.md)
  bool by_channel = true;  // compiled for it
};
constexpr std::array candidates{
    Candidate{{16, 64, true, 16, SharedCopies::none}, 0.5},
    Candidate{{16, 128, true, 8, SharedCopies::none}, 0.5},
    Candidate{{32, 64, true, 14, SharedCopies::none}, 0.5},
    Candidate{{32, 128, true, 8, SharedCopies::none}, 0.5},
    Candidate{{64, 64, true, 12, SharedCopies::none}, 0.6},
    Candidate{{64, 128, true, 8, SharedCopies::none}, 0.7},
    Candidate{{64, 128, false, 8, SharedCopies::none}, 0.6},
    Candidate{{128, 64, false, 8, SharedCopies::none}, 0.7},
    Candidate{{128, 128, false, 6, SharedCopies::none}, 0.8},
    Candidate{{128, 192, false, 5, SharedCopies::weights}, 0.9},
    Candidate{{128, 256, false, 4, SharedCopies::weights}, 0.9},
    Candidate{{256, 128, false, 4, SharedCopies::activations}, 0.9, false},
};

constexpr std::int64_t over(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Cycles of a problem of `experts` products with `each` rows.
double cycles(const BlockGemm& p, const Candidate& c, std::int64_t experts, std::int64_t each,
              std::int64_t units) {
  constexpr double products_per_cycle = 4096;          // e4m3, of a multiprocessor
  constexpr double from_memory = 19, from_cache = 40;  // bytes a cycle that one gets of all
  constexpr double features_to_store = 300;            // what ending a tile costs, in features of k
  const BlockGemmTile& t = c.tile;
  const std::int64_t blocks = t.shared == SharedCopies::none ? 1 : 2;
  const std::int64_t down = over(each, t.rows * (t.shared == SharedCopies::weights ? 2 : 1));
  const std::int64_t across = over(p.n, t.columns * (t.shared == SharedCopies::activations ? 2 : 1));
  const std::int64_t waves = over(experts * down * across, units / blocks);
  const double extent = static_cast<double>(t.rows) * t.columns;
  const double multiply = extent / products_per_cycle / c.rate;
  const double load = static_cast<double>(t.rows + t.columns) / (down == 1 ? from_memory : from_cache);
  return static_cast<double>(waves) * std::max(multiply, load) * (p.k + features_to_store);
}

}  // namespace

BlockGemmTile block_gemm_tile(const BlockGemm& p, std::int32_t compute_units) {
  const std::int64_t experts = p.layout == BlockGemmExperts::none ? 1 : p.experts;
  const std::int64_t each = p.rows_each > 0 ? p.rows_each : over(p.rows, std::max<std::int64_t>(experts, 1));
  // Of rows one after the other it is known how many experts share them.
  const bool known = p.layout == BlockGemmExperts::contiguous && p.rows_each > 0;
  const std::int64_t busy = known ? std::min(experts, over(p.rows, each)) : experts;
  const Candidate* best = nullptr;
  double least = 0;
  for (const Candidate& c : candidates) {
    if (p.by_channel && !c.by_channel) continue;
    const double takes = cycles(p, c, busy, each, compute_units);
    if (best != nullptr && takes >= least) continue;
    best = &c;
    least = takes;
  }
  return best->tile;
}

}  // namespace orrery::kernels
