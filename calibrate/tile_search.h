// Search of a kernel's tiles for one product: pruned by a rule, then successive halving on time. Who times is
// behind an interface: a device, the cost model's tile law where there is none, a fake in tests.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

struct SearchTile {
  std::int64_t rows = 0, columns = 0, depth = 128;  // of out; features in that a stage holds
  std::int64_t group = 1, warps = 4, stages = 0;
  bool swapped = false;       // weights are the operand of the instruction's rows
  std::string shared;         // "weights" or "activations": copied once for two blocks
  std::int32_t variant = -1;  // as a kernel case names it (CaseSpec::variant)
  std::int64_t splits = 1;    // blocks that share out the features in of one tile
  std::int64_t blocks = 1;    // of a multiprocessor
  std::string text() const;   // "64x128x128 6 stages swapped": of a space every tile has another
};
Json tile_json(const SearchTile& tile);
bool read_tile(const Json& json, SearchTile& tile);

// One product: `rows` of `spec` per expert, or m.
struct TileProblem {
  std::string table;        // "gemm" or "grouped_gemm"
  kernels::CaseSpec spec;   // its kernel's; variant is set by the search
  std::string shape;        // columns of the table
  std::string layer;        // experts: names both products of a layer and its shape, "E=128,N=768,K=2048"
  std::int64_t tokens = 0;  // of the batch
  std::string key() const { return table + ":" + shape; }
};

class TileTimer {
 public:
  virtual ~TileTimer() = default;
  // Microseconds; 0 when the kernel refuses the tile, and `why`. `effort` doubles from round to round: how
  // much longer than in the first one may be timed.
  virtual double us(const TileProblem& problem, const SearchTile& tile, int effort, std::string& why) = 0;
};

struct TimedTile {
  SearchTile tile;
  double us = 0;
};

struct TileSearch {
  TimedTile winner, own;         // own: what the kernel takes when nobody says. 0 µs: could not be timed
  std::vector<TimedTile> timed;  // all that were, as last timed, fastest first
  std::size_t space = 0, pruned = 0, refused = 0, timings = 0;
  bool stopped = false;  // asked to: not a result
};

struct TileLimits {
  std::int64_t units = 1;         // multiprocessors
  std::int64_t shared_bytes = 0;  // of one block
  double element_bytes = 1;       // of both operands
  std::function<bool()> stop = [] { return false; };
};

// Places in `space` that are worth timing, ascending. Left out: tiles whose stages of both operands do not
// fit in shared memory, and those whose waves, a split tile counted once for each split, hold more than twice
// the outputs of the tile with the fewest: what they compute is padding or waits.
std::vector<std::size_t> worth_timing(const std::vector<SearchTile>& space, const TileProblem& problem,
                                      const TileLimits& limits);

// `own` is timed in every round beside the rest, however slow. The order is that of the space, so equal times
// give the same winner everywhere; own wins ties.
TileSearch search_tiles(const TileProblem& problem, const std::vector<SearchTile>& space,
                        const SearchTile& own, TileTimer& timer, const TileLimits& limits);

}  // namespace orrery::calibrate
