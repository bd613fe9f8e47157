// Queries, keys and values as mma.sync takes them; included by attention_fragments.h.
#pragma once

#include "kernels/attention_fragments.h"

namespace orrery::kernels {

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

// scores.value[0] = queries · tokens 0–7, scores.value[1] = queries · tokens 8–15 of the tile.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_keys(const QueryFragments<HeadDim, Fp8>& queries, SharedAddress keys,
                              MatrixTile& scores) {
  using Tile = HeadTile<HeadDim, Fp8>;
  const unsigned lane = gpu_lane();
  GPU_UNROLL for (int c = 0; c < 4; c++) scores.value[0][c] = scores.value[1][c] = 0;
  // Matrices: (tokens 0–7, chunk), (tokens 0–7, chunk + 1), (tokens 8–15, chunk), (tokens 8–15, chunk + 1).
  const unsigned row = lane / 16 * 8 + lane % 8, chunk = lane / 8 % 2;
  GPU_UNROLL for (int pair = 0; pair < Tile::chunks / 2; pair++) {
    std::uint32_t k[4];
    load_matrix_x4(k, keys + Tile::offset(row, static_cast<unsigned>(2 * pair) + chunk));
    GPU_UNROLL for (int i = 0; i < 2; i++) {
      if constexpr (Fp8) {
        GPU_UNROLL for (int half = 0; half < 2; half++) {  // each chunk is a step of 16 dimensions
          std::uint32_t low, high;
          f16_of_e4m3(k[2 * i + half], low, high);
          mma_f16(scores.value[i], queries.a[2 * pair + half], low, high);
        }
      } else {
        mma_bf16(scores.value[i], queries.a[pair], k[2 * i], k[2 * i + 1]);
      }
    }
  }
}

// 16 tokens' values of 16 dimensions, bf16, as the right operand.
struct ValueOperand {
  std::uint32_t word[4];

  template <int HeadDim>
  GPU_DEVICE_MEMBER void load(SharedAddress values, unsigned first_token, unsigned tile) {
    const unsigned lane = gpu_lane();
    load_matrix_x4_transposed(
        word, values + HeadTile<HeadDim, false>::offset(first_token + lane % 16, 2 * tile + lane / 16));
  }
};
// The 16 dimensions that begin at out[part] += weights · values.
template <int Parts>
GPU_DEVICE void multiply_tokens(float (&out)[Parts][4], int part,
                                const std::uint32_t (&weights)[weight_words], const ValueOperand& values) {
  mma_bf16(out[part], weights, values.word[0], values.word[1]);
  mma_bf16(out[part + 1], weights, values.word[2], values.word[3]);
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
        std::uint32_t even[2], odd[2];  // dimensions, of tokens 0–7 and 8–15
        GPU_UNROLL for (int j = 0; j < 2; j++) {
          f16_of_e4m3(permute_bytes(v[2 * i + j], 0, 0x3120), even[j], odd[j]);
        }
        mma_f16(out[2 * (2 * pair + i)], weights, even[0], even[1]);
        mma_f16(out[2 * (2 * pair + i) + 1], weights, odd[0], odd[1]);
      } else {
        mma_bf16(out[2 * pair + i], weights, v[2 * i], v[2 * i + 1]);
      }
    }
  }
}

// The same of a vectorised tile, of which `tokens` count: a lane's words are neighbouring tokens of a
// dimension, so nothing is transposed.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_vectors(const std::uint32_t (&weights)[4], SharedAddress values, int tokens,
                                 float (&out)[HeadDim / 8][4]) {
  const unsigned lane = gpu_lane();
  const int first = static_cast<int>(lane % 4) * (Fp8 ? 4 : 2);
  if constexpr (Fp8) {
    GPU_UNROLL for (unsigned part = 0; part < HeadDim / 32; part++) {
      std::uint32_t v[4];
      load_matrix_x4(v, values + (32 * part + lane) * 16);
      GPU_UNROLL for (int i = 0; i < 4; i++) {
        std::uint32_t low, high;
        f16_of_e4m3(below<8>(v[i], first, tokens), low, high);
        mma_f16(out[4 * part + static_cast<unsigned>(i)], weights, low, high);
      }
    }
  } else {
    // Matrices: (dimensions 0–7, tokens 0–7), (0–7, 8–15), (8–15, 0–7), (8–15, 8–15).
    const unsigned dimension = lane / 16 * 8 + lane % 8, group = lane / 8 % 2;
    GPU_UNROLL for (unsigned tile = 0; tile < HeadDim / 16; tile++) {
      std::uint32_t v[4];
      load_matrix_x4(v, values + (group * HeadDim + 16 * tile + dimension) * 16);
      GPU_UNROLL for (int i = 0; i < 4; i++) v[i] = below<16>(v[i], first + i % 2 * 8, tokens);
      mma_bf16(out[2 * tile], weights, v[0], v[1]);
      mma_bf16(out[2 * tile + 1], weights, v[2], v[3]);
    }
  }
}

}  // namespace orrery::kernels
