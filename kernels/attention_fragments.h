// What decode and prefill attention share: 16×head_dim tiles of keys and values in shared memory, and the
// products of 16 query rows with 16 tokens of them, on matrix cores of every target (matrix_tile.h).
//
// On NVIDIA bf16 keys and values go through ldmatrix as they are. e4m3 ones become f16 in registers, which is
// exact, and queries become f16 times a power of two per row. A thread that loads four neighbouring e4m3
// holds elements 4t … 4t + 3 of 16 where a fragment wants 2t, 2t + 1, 2t + 8, 2t + 9: any order of the head's
// dimensions will do as long as queries follow it, so no byte is moved. Values come transposed as pairs of
// bytes; the even and odd dimension of 16 become two fragments. On AMD e4m3 becomes bf16, as exactly.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/matrix_tile.h"

namespace orrery::kernels {

template <int HeadDim, bool Fp8>
struct HeadTile {
  static constexpr int row_bytes = HeadDim * (Fp8 ? 1 : 2), chunks = row_bytes / 16;
  static constexpr int bytes = 16 * row_bytes;
  static constexpr int k_steps = HeadDim / 16, fragments = HeadDim / 8;

  // Eight rows' equal chunks lie in different groups of banks.
  GPU_DEVICE_MEMBER static std::uint32_t offset(std::uint32_t row, std::uint32_t chunk) {
    if constexpr (row_bytes >= 128) return row * row_bytes + ((chunk ^ (row & 7)) << 4);
    return row * row_bytes + ((chunk ^ (row >> 1 & 3)) << 4);
  }

  // Dimension that value out[part][c] of SoftmaxRows belongs to in this thread.
  GPU_DEVICE_MEMBER static int dimension(int part, int c) {
    if constexpr (Fp8 && ORRERY_MATRIX_TARGET == 0) {
      return part / 2 * 16 + 4 * (static_cast<int>(gpu_lane()) % 4) + 2 * (c % 2) + part % 2;
    }
    return part / tile_parts * 16 + tile_column(part % tile_parts, c);
  }
};

// Values of 16 tokens as the vectorised cache holds them, [16 / x][head_dim] chunks of x tokens of a
// dimension.
template <bool Fp8>
struct VectorTile {
  static constexpr int of_chunk = Fp8 ? 16 : 8;  // tokens

  // The token whose score stands in `column`, and the other way round. Four neighbouring e4m3 that ldmatrix
  // gives a lane of NVIDIA's are the columns 2t, 2t + 1, 2t + 8 and 2t + 9 of weights: keys lie in that
  // order.
  GPU_DEVICE_MEMBER static int token(int column) {
    if constexpr (Fp8 && ORRERY_MATRIX_TARGET == 0) return column % 8 / 2 * 4 + column / 8 * 2 + column % 2;
    return column;
  }
  GPU_DEVICE_MEMBER static int column(int token) {
    if constexpr (Fp8 && ORRERY_MATRIX_TARGET == 0) return token % 4 / 2 * 8 + token / 4 * 2 + token % 2;
    return token;
  }
};
// Of a word of 16-bit or 8-bit elements from token `first` on, those below `tokens`; zeros for the rest.
template <int Bits>
GPU_DEVICE std::uint32_t below(std::uint32_t word, int first, int tokens) {
  const int left = tokens - first;
  if (left >= 32 / Bits) return word;
  return left <= 0 ? 0 : word & ((1U << (left * Bits)) - 1);
}

// Weights of 16 tokens as the left operand of the second product: what a lane holds of the first, packed, is
// that.
constexpr int weight_words = 2 * tile_parts;

}  // namespace orrery::kernels

#if ORRERY_MATRIX_TARGET == 0
#include "kernels/attention_fragments_nvidia.h"
#else
#include "kernels/attention_fragments_amd.h"
#endif

namespace orrery::kernels {

// Running softmax of the rows that a thread shares with others: two with its three neighbours, on AMD one
// with the lanes 16 apart.
template <int HeadDim>
struct SoftmaxRows {
  static constexpr int parts = HeadDim / 16 * tile_parts;
  float out[parts][4];
  float largest[tile_rows_held], sum[tile_rows_held];  // base-2 exponents; sums are of this thread's columns
                                                       // only

  GPU_DEVICE_MEMBER void clear() {
    GPU_UNROLL for (int j = 0; j < parts; j++) { GPU_UNROLL for (int c = 0; c < 4; c++) out[j][c] = 0; }
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
      largest[half] = -gpu_infinity;
      sum[half] = 0;
    }
  }

  // `scores`: a lane's values of 16 rows and some tokens, already in base-2 units, −∞ where masked. Leaves
  // exponentials in their place.
  template <int Parts>
  GPU_DEVICE_MEMBER void exponentials(float (&scores)[Parts][4]) {
    float before[tile_rows_held], shift[tile_rows_held];
    bool grew = false;
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
      float most = -gpu_infinity;
      GPU_UNROLL for (int i = 0; i < Parts; i++) {
        GPU_UNROLL for (int c = 0; c < 4; c++) {
          if (tile_held(c) == half) most = gpu_max(most, scores[i][c]);
        }
      }
      before[half] = largest[half];
      largest[half] = gpu_max(before[half], tile_row_max(most));
      // All masked so far: exponentials are 0.
      shift[half] = largest[half] == -gpu_infinity ? 0.0F : largest[half];
      grew = grew || largest[half] > before[half];
    }
    if (gpu_ballot(grew) != 0) {
      GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) {
        const float factor = exp2_fast(before[half] - shift[half]);
        sum[half] *= factor;
        GPU_UNROLL for (int j = 0; j < parts; j++) {
          GPU_UNROLL for (int c = 0; c < 4; c++) {
            if (tile_held(c) == half) out[j][c] *= factor;
          }
        }
      }
    }
    GPU_UNROLL for (int i = 0; i < Parts; i++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) {
        scores[i][c] = exp2_fast(scores[i][c] - shift[tile_held(c)]);
        sum[tile_held(c)] += scores[i][c];
      }
    }
  }

  GPU_DEVICE_MEMBER void finish_sums() {
    GPU_UNROLL for (int half = 0; half < tile_rows_held; half++) sum[half] = tile_row_sum(sum[half]);
  }
};

// Exponentials of the 16 tokens from `part` on, as the left operand of their product with values.
template <int Parts>
GPU_DEVICE void pack_weights(const float (&scores)[Parts][4], int part,
                             std::uint32_t (&weights)[weight_words]) {
  GPU_UNROLL for (int i = 0; i < weight_words; i++) {
    const float(&from)[4] = scores[part + i / 2];
    weights[i] = gpu_pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
  }
}

}  // namespace orrery::kernels
