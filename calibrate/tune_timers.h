// Who times tiles: a device, or the cost model's tile law where the part is not here.
#pragma once

#include <memory>

#include "calibrate/arena.h"
#include "calibrate/measure.h"
#include "calibrate/tile_search.h"
#include "calibrate/timer.h"
#include "costmodel/moe_tiles.h"
#include "kernels/device.h"

namespace orrery::calibrate {

// Our FP8 block product (block_gemm_wgmma) on a device, operands prepared as for any point, each timing after
// a rest of the clock.
class DeviceTiles final : public TileTimer {
 public:
  DeviceTiles(kernels::Device& device, Timer& timer, MakeCase make, MeasureOptions options);
  double us(const TileProblem& problem, const SearchTile& tile, int effort, std::string& why) override;
  // Of each extent 4 and 8 stages and the most that fit: in between nothing was ever fastest
  // (reports/results/kernels_h200_fp8_block.md). Of split tiles all: the kernel has one number of stages of
  // each.
  std::vector<SearchTile> space(const TileProblem& problem) const;
  SearchTile own(const TileProblem& problem) const;
  TileLimits limits() const;

 private:
  void rest();

  kernels::Device& device_;
  Timer& timer_;
  MakeCase make_;
  MeasureOptions options_;
  Arena arena_;
  double highest_mhz_ = 0;
};

// vLLM's Triton expert kernel by the tile law: counts, not times, wherever it runs.
class LawTiles final : public TileTimer {
 public:
  static Result<LawTiles> create(const HardwareProfile& part);
  double us(const TileProblem& problem, const SearchTile& tile, int effort, std::string& why) override;
  std::vector<SearchTile> space(const TileProblem& problem) const;
  SearchTile own(const TileProblem& problem) const;
  TileLimits limits() const;

 private:
  LawTiles(HardwareProfile part, Roofline roofline);
  HardwareProfile part_;
  Roofline roofline_;
  WeightFormat format_;
};

}  // namespace orrery::calibrate
