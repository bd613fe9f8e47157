// Scales by block of a tile of block_gemm_wgmma.cu, whose shapes are S here, and how they come to the sums
// (sm_90a).
#pragma once

#include "kernels/block_gemm.h"
#include "kernels/grouped_tiles.h"
#include "kernels/wgmma.h"

namespace orrery::kernels::block_wgmma {

// The steps of k that are this block's.
struct StepRange {
  int first, end;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The scales that a step of k needs.
template <class S>
struct StepScales {
  // Rows of out (a half is eight rows) or, swapped, its columns; then weights, 64 or 128 of them each.
  static constexpr int span = S::part_columns % 128 == 0 ? 128 : 64;
  static constexpr int of_rows = S::swapped ? S::part_columns / 4 : 2 * S::row_parts;
  static constexpr int of_weights = S::swapped ? 1 : S::column_parts * ((S::part_columns + span - 1) / span);
  float row[of_rows], weight[of_weights];
};

GPU_DEVICE float read_shared(SharedAddress from) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(from) : "memory");
  return value;
}

// A thread's view of the scales of a tile. Weights' are read 32 steps at a time, one a lane, well before they
// are needed.
template <class S>
class ScaleReader {
 public:
  using Scales = StepScales<S>;

  GPU_DEVICE_MEMBER ScaleReader(const BlockGemm& p, const Tile& tile, int group, const StepRange& range)
      : scales_(p.weight_scales + range.first), steps_(range.end - range.first) {
    const int lane = static_cast<int>(gpu_lane()), warp = static_cast<int>(gpu_warp_index()) % 4;
    first_ =
        tile.first_row % 4 + (S::swapped ? lane % 4 * 2 : 64 * S::row_parts * group + 16 * warp + lane / 4);
    const int blocks = (p.n + 127) / 128;
    const int column = tile.first_column + (S::swapped ? 64 * group : 0);
    GPU_UNROLL for (int i = 0; i < Scales::of_weights; i++) {
      const int block = (column + i * Scales::span) / 128;  // beyond n: nothing of it is stored
      weight_[i] = (tile.expert * blocks + min(block, blocks - 1)) * p.weight_blocks + lane;
    }
    read_ahead(0);
  }
  GPU_DEVICE_MEMBER void read_rows(Scales& to, SharedAddress scales) const {
    GPU_UNROLL for (int i = 0; i < Scales::of_rows; i++) {
      // Scale i is of that many rows after this thread's first.
      const int at = S::swapped ? i / 2 * 8 + i % 2 : i / 2 * 64 + i % 2 * 8;
      to.row[i] = read_shared(scales + static_cast<unsigned>(first_ + at) * 4);
    }
  }
  GPU_DEVICE_MEMBER void read_weights(Scales& to, int step) {
    if (step % 32 == 0) {
      GPU_UNROLL for (int i = 0; i < Scales::of_weights; i++) held_[i] = ahead_[i];
      read_ahead(step + 32);
    }
    GPU_UNROLL for (int i = 0; i < Scales::of_weights; i++) {
      to.weight[i] = gpu_shuffle(held_[i], static_cast<unsigned>(step % 32));
    }
  }

 private:
  GPU_DEVICE_MEMBER void read_ahead(int step) {
    GPU_UNROLL for (int i = 0; i < Scales::of_weights; i++) {
      ahead_[i] = step + static_cast<int>(gpu_lane()) < steps_ ? scales_[weight_[i] + step] : 0.0F;
    }
  }
  const float* scales_;
  int steps_, first_, weight_[Scales::of_weights];
  float held_[Scales::of_weights], ahead_[Scales::of_weights];
};

// total += block · scales, for one part.
template <class S>
GPU_DEVICE void add_block(float (&total)[S::accumulators], const float (&block)[S::accumulators],
                          const StepScales<S>& scales, int part) {
  if constexpr (S::by_channel) {
    GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[i] += block[i];
  } else if constexpr (S::swapped) {
    float factor[S::accumulators / 2];
    GPU_UNROLL for (int i = 0; i < S::accumulators / 2; i++) factor[i] = scales.row[i] * scales.weight[0];
    GPU_UNROLL for (int i = 0; i < S::accumulators; i++) total[i] += block[i] * factor[i / 4 * 2 + i % 2];
  } else {
    constexpr int span = StepScales<S>::span, spans = (S::part_columns + span - 1) / span;
    const int row_part = part / S::column_parts, column_part = part % S::column_parts;
    GPU_UNROLL for (int s = 0; s < spans; s++) {
      const float weight = scales.weight[column_part * spans + s];
      const float factor[2] = {scales.row[2 * row_part] * weight, scales.row[2 * row_part + 1] * weight};
      GPU_UNROLL for (int i = s * span / 2; i < (s + 1) * span / 2 && i < S::accumulators; i++) {
        total[i] += block[i] * factor[i % 4 / 2];
      }
    }
  }
}

#endif

}  // namespace orrery::kernels::block_wgmma
