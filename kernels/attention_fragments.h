// What decode and prefill attention share: 16×head_dim tiles of keys and values in shared memory, and the
// products of 16 query rows with 16 tokens of them.
//
// bf16 keys and values go through ldmatrix as they are. e4m3 ones become f16 in registers, which is exact,
// and queries become f16 times a power of two per row. A thread that loads four neighbouring e4m3 holds
// elements 4t … 4t + 3 of 16 where a fragment wants 2t, 2t + 1, 2t + 8, 2t + 9: any order of the head's
// dimensions will do as long as queries follow it, so no byte is moved. Values come transposed as pairs of
// bytes; the even and odd dimension of 16 become two fragments.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/tensor_core.h"

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

  // Dimension that element `column` (0 or 1) of output fragment `fragment` belongs to in this thread.
  GPU_DEVICE_MEMBER static int dimension(int fragment, int column) {
    const int t = static_cast<int>(gpu_lane()) % 4;
    if constexpr (Fp8) return fragment / 2 * 16 + 4 * t + 2 * column + fragment % 2;
    return fragment * 8 + 2 * t + column;
  }
};

// 16 query rows as A fragments. Row r of the fragment is at queries + r · row_stride while r < rows, else
// zero.
template <int HeadDim, bool Fp8>
struct QueryFragments {
  std::uint32_t a[HeadDim / 16][4];
  float row_factor[2] = {1, 1};  // rows g and g + 8: what f16 queries must be multiplied by

  GPU_DEVICE_MEMBER void load(const std::uint16_t* queries, std::int64_t row_stride, int rows) {
    const int g = static_cast<int>(gpu_lane()) / 4, t = static_cast<int>(gpu_lane()) % 4;
    GPU_UNROLL for (int half = 0; half < 2; half++) {
      const bool valid = g + 8 * half < rows;
      const std::uint16_t* row = queries + (valid ? (g + 8 * half) * row_stride : 0);
      GPU_UNROLL for (int step = 0; step < HeadDim / 16; step++) {
        // bf16: dimensions 2t and 2t + 8 of 16; f16 for e4m3 keys: 4t and 4t + 2.
        const int first = step * 16 + (Fp8 ? 4 * t : 2 * t), second = first + (Fp8 ? 2 : 8);
        a[step][half] = valid ? *reinterpret_cast<const std::uint32_t*>(row + first) : 0;
        a[step][half + 2] = valid ? *reinterpret_cast<const std::uint32_t*>(row + second) : 0;
      }
      if constexpr (Fp8) to_f16(half);
    }
  }

 private:
  // Divides the row by the power of two below its largest element: f16 has bf16's precision, not its range.
  GPU_DEVICE_MEMBER void to_f16(int half) {
    float largest = 0;
    GPU_UNROLL for (int step = 0; step < HeadDim / 16; step++) {
      GPU_UNROLL for (int i = half; i < 4; i += 2) {
        largest = gpu_max(largest, gpu_abs(gpu_low_bf16(a[step][i])));
        largest = gpu_max(largest, gpu_abs(gpu_high_bf16(a[step][i])));
      }
    }
    largest = gpu_group_max<4>(largest);
    const std::uint32_t power = gpu_bit_cast<std::uint32_t>(largest) & 0x7f800000U;
    const bool usable = power > 0 && power < 0x7f000000U;
    row_factor[half] = usable ? gpu_bit_cast<float>(power) : 1.0F;
    const float inverse = usable ? gpu_bit_cast<float>(0x7f000000U - power) : 1.0F;
    GPU_UNROLL for (int step = 0; step < HeadDim / 16; step++) {
      GPU_UNROLL for (int i = half; i < 4; i += 2) {
        a[step][i] = pack_f16(gpu_low_bf16(a[step][i]) * inverse, gpu_high_bf16(a[step][i]) * inverse);
      }
    }
  }
};

// scores[0] = queries · tokens 0–7, scores[1] = queries · tokens 8–15 of the tile.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_keys(const QueryFragments<HeadDim, Fp8>& queries, SharedAddress keys,
                              float (&scores)[2][4]) {
  using Tile = HeadTile<HeadDim, Fp8>;
  const unsigned lane = gpu_lane();
  GPU_UNROLL for (int c = 0; c < 4; c++) scores[0][c] = scores[1][c] = 0;
  // Matrices: (tokens 0–7, chunk), (tokens 0–7, chunk + 1), (tokens 8–15, chunk), (tokens 8–15, chunk + 1).
  const unsigned row = lane / 16 * 8 + lane % 8, chunk = lane / 8 % 2;
  GPU_UNROLL for (int pair = 0; pair < Tile::chunks / 2; pair++) {
    std::uint32_t k[4];
    load_matrix_x4(k, keys + Tile::offset(row, static_cast<unsigned>(2 * pair) + chunk));
    GPU_UNROLL for (int i = 0; i < 2; i++) {
      if constexpr (Fp8) {
        GPU_UNROLL for (int half = 0; half < 2; half++) {  // each chunk is a step of 16 dimensions
          const std::uint32_t four = k[2 * i + half];
          mma_f16(scores[i], queries.a[2 * pair + half], f16_of_e4m3(four & 0xffffU),
                  f16_of_e4m3(four >> 16));
        }
      } else {
        mma_bf16(scores[i], queries.a[pair], k[2 * i], k[2 * i + 1]);
      }
    }
  }
}

// out += weights · values of the tile's 16 tokens; weights as the A fragment, bf16 or f16 as the tile asks.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_values(const std::uint32_t (&weights)[4], SharedAddress values,
                                float (&out)[HeadDim / 8][4]) {
  using Tile = HeadTile<HeadDim, Fp8>;
  const unsigned lane = gpu_lane();
  // Matrices: (tokens 0–7, chunk), (tokens 8–15, chunk), (tokens 0–7, chunk + 1), (tokens 8–15, chunk + 1).
  const unsigned row = lane % 16, chunk = lane / 16;
  GPU_UNROLL for (int pair = 0; pair < Tile::chunks / 2; pair++) {
    std::uint32_t v[4];
    load_matrix_x4_transposed(v, values + Tile::offset(row, static_cast<unsigned>(2 * pair) + chunk));
    GPU_UNROLL for (int i = 0; i < 2; i++) {
      if constexpr (Fp8) {
        GPU_UNROLL for (int odd = 0; odd < 2; odd++) {
          const std::uint32_t pick = odd == 0 ? 0x4420U : 0x4431U;
          mma_f16(out[2 * (2 * pair + i) + odd], weights,
                  f16_of_e4m3(permute_bytes(v[2 * i], 0, pick) & 0xffffU),
                  f16_of_e4m3(permute_bytes(v[2 * i + 1], 0, pick) & 0xffffU));
        }
      } else {
        mma_bf16(out[2 * pair + i], weights, v[2 * i], v[2 * i + 1]);
      }
    }
  }
}

// Running softmax of the two rows that a thread shares with its three neighbours.
template <int HeadDim>
struct SoftmaxRows {
  float out[HeadDim / 8][4];
  float largest[2], sum[2];  // base-2 exponents; sums are of this thread's columns only

  GPU_DEVICE_MEMBER void clear() {
    GPU_UNROLL for (int j = 0; j < HeadDim / 8; j++) { GPU_UNROLL for (int c = 0; c < 4; c++) out[j][c] = 0; }
    GPU_UNROLL for (int half = 0; half < 2; half++) {
      largest[half] = -INFINITY;
      sum[half] = 0;
    }
  }

  // `scores`: Tiles × 8 columns, already in base-2 units, −∞ where masked. Leaves exponentials in their
  // place.
  template <int Tiles>
  GPU_DEVICE_MEMBER void exponentials(float (&scores)[Tiles][4]) {
    float before[2], shift[2];
    bool grew = false;
    GPU_UNROLL for (int half = 0; half < 2; half++) {
      float most = -INFINITY;
      GPU_UNROLL for (int i = 0; i < Tiles; i++) {
        most = gpu_max(most, gpu_max(scores[i][2 * half], scores[i][2 * half + 1]));
      }
      before[half] = largest[half];
      largest[half] = gpu_max(before[half], gpu_group_max<4>(most));
      shift[half] = largest[half] == -INFINITY ? 0.0F : largest[half];  // all masked so far: exponentials are
                                                                        // 0
      grew = grew || largest[half] > before[half];
    }
    if (gpu_ballot(grew) != 0) {
      GPU_UNROLL for (int half = 0; half < 2; half++) {
        const float factor = exp2_fast(before[half] - shift[half]);
        sum[half] *= factor;
        GPU_UNROLL for (int j = 0; j < HeadDim / 8; j++) {
          out[j][2 * half] *= factor;
          out[j][2 * half + 1] *= factor;
        }
      }
    }
    GPU_UNROLL for (int i = 0; i < Tiles; i++) {
      GPU_UNROLL for (int c = 0; c < 4; c++) {
        scores[i][c] = exp2_fast(scores[i][c] - shift[c / 2]);
        sum[c / 2] += scores[i][c];
      }
    }
  }

  GPU_DEVICE_MEMBER void finish_sums() {
    GPU_UNROLL for (int half = 0; half < 2; half++) sum[half] = gpu_group_sum<4>(sum[half]);
  }
};

}  // namespace orrery::kernels
