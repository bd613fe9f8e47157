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

// What the warp that brings scales says of a stage, behind the rows' scales: the tile, and the scale of
// weights for each 64 features out. Who multiplies then asks memory for nothing.
constexpr int most_weight_scales = 4;
struct StageNote {
  Tile tile;
  float weight[most_weight_scales];
};
static_assert(sizeof(StageNote) == 32);

GPU_DEVICE void write_note(SharedAddress to, const StageNote& note) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(note.tile.expert),
               "r"(note.tile.first_row), "r"(note.tile.rows), "r"(note.tile.first_column)
               : "memory");
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + 16), "f"(note.weight[0]),
               "f"(note.weight[1]), "f"(note.weight[2]), "f"(note.weight[3])
               : "memory");
}
GPU_DEVICE Tile read_tile(SharedAddress note) {
  Tile tile;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(tile.expert), "=r"(tile.first_row), "=r"(tile.rows), "=r"(tile.first_column)
               : "r"(note)
               : "memory");
  return tile;
}

// By the warp that brings scales: weights' of a tile, 32 steps at a time, one a lane, asked for 32
// steps or a tile before they are needed.
template <class S>
class WeightScales {
 public:
  static constexpr int count = S::by_channel ? 0 : S::tile_columns / 64;
  static_assert(count <= most_weight_scales);

  // Of the step `first` of the tile and those after it, up to `end`.
  GPU_DEVICE_MEMBER void ask(const BlockGemm& p, const Tile& tile, int first, int end) {
    const int blocks = (p.n + 127) / 128, step = first + static_cast<int>(gpu_lane());
    GPU_UNROLL for (int i = 0; i < count; i++) {
      const int block = (tile.first_column + 64 * i) / 128;  // beyond n: nothing of it is stored
      const int at = (tile.expert * blocks + min(block, blocks - 1)) * p.weight_blocks + step;
      asked_[i] = step < end ? p.weight_scales[at] : 0.0F;
    }
  }
  GPU_DEVICE_MEMBER void take() {
    GPU_UNROLL for (int i = 0; i < count; i++) held_[i] = asked_[i];
  }
  GPU_DEVICE_MEMBER StageNote note(const Tile& tile, int step) const {
    StageNote note{tile, {}};
    GPU_UNROLL for (int i = 0; i < count; i++) {
      note.weight[i] = gpu_shuffle(held_[i], static_cast<unsigned>(step % 32));
    }
    return note;
  }

 private:
  float held_[count > 0 ? count : 1], asked_[count > 0 ? count : 1];
};

// Where a thread that multiplies finds its scales in a stage.
template <class S>
struct ScaleReader {
  unsigned first, weight;  // bytes from the stage's scales on

  GPU_DEVICE_MEMBER ScaleReader(const Tile& tile, int group) {
    const int lane = static_cast<int>(gpu_lane()), warp = static_cast<int>(gpu_warp_index()) % 4;
    const int row =
        tile.first_row % 4 + (S::swapped ? lane % 4 * 2 : 64 * S::row_parts * group + 16 * warp + lane / 4);
    first = static_cast<unsigned>(row) * 4;
    weight = S::note_at + 16 + (S::swapped ? static_cast<unsigned>(group) * 4 : 0);
  }
  GPU_DEVICE_MEMBER void read(StepScales<S>& to, SharedAddress scales) const {
    GPU_UNROLL for (unsigned i = 0; i < StepScales<S>::of_rows; i++) {
      // Scale i is of that many rows after this thread's first.
      const unsigned at = S::swapped ? i / 2 * 8 + i % 2 : i / 2 * 64 + i % 2 * 8;
      to.row[i] = read_shared(scales + first + at * 4);
    }
    GPU_UNROLL for (unsigned i = 0; i < StepScales<S>::of_weights; i++) {
      to.weight[i] = read_shared(scales + weight + i * (StepScales<S>::span / 64) * 4);
    }
  }
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
