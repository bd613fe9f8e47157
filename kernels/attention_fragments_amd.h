// Queries, keys and values as MFMA and WMMA take them; included by attention_fragments.h. With the operands
// swapped (matrix_tile.h) a lane's scores are of one query row and neighbouring tokens, and packed they are
// its weights for the second product: nothing moves between lanes. Values are loaded for the same tokens in
// the same order, so that it does not matter as which k the instruction counts them. e4m3 becomes bf16 on the
// way into registers, exactly.
#pragma once

#include "kernels/attention_fragments.h"

namespace orrery::kernels {

// 16 query rows as left operands. Row r is at queries + r · row_stride while r < rows, else zero.
template <int HeadDim, bool Fp8>
struct QueryFragments {
  static constexpr int steps = HeadDim * 2 / tile_step_bytes;
  MatrixOperand step[steps];
  float row_factor[tile_rows_held] = {1};

  GPU_DEVICE_MEMBER void load(const std::uint16_t* queries, std::int64_t row_stride, int rows) {
    const OperandChunk at = left_chunk();
    const bool valid = at.row < rows;
    const std::uint16_t* row = queries + (valid ? at.row * row_stride : 0);
    GPU_UNROLL for (int s = 0; s < steps; s++) {
      const auto chunk = static_cast<std::size_t>(tile_step_chunks * s + at.chunk);
      const GpuBytes16 bytes = valid ? gpu_load<GpuBytes16>(row, chunk) : GpuBytes16{};
      GPU_UNROLL for (int i = 0; i < 4; i++) step[s].word[i] = bytes.word[i];
    }
  }
};

// scores = queries · tokens of the tile.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_keys(const QueryFragments<HeadDim, Fp8>& queries, SharedAddress keys,
                              MatrixTile& scores) {
  using Tile = HeadTile<HeadDim, Fp8>;
  GPU_UNROLL for (int i = 0; i < 4 * tile_parts; i++) scores.value[i / 4][i % 4] = 0;
  const OperandChunk at = right_chunk();
  const std::uint32_t token = fresh(static_cast<unsigned>(at.row));
  GPU_UNROLL for (int s = 0; s < QueryFragments<HeadDim, Fp8>::steps; s++) {
    MatrixOperand k;
    const auto eight = static_cast<unsigned>(tile_step_chunks * s + at.chunk);  // of the head's dimensions
    if constexpr (Fp8) {
      const GpuBytes8 bytes = load_shared<GpuBytes8>(keys + Tile::offset(token, eight / 2) + eight % 2 * 8);
      GPU_UNROLL for (int i = 0; i < 4; i++) k.word[i] =
          bf16_of_e4m3(bytes.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU);
    } else {
      k.load(keys + Tile::offset(token, eight));
    }
    multiply_step<false>(scores, queries.step[s], k);
    if (s % 2 == 1) keep_order();
  }
}

// 16 tokens' values of 16 dimensions as the right operand: a lane takes one dimension and neighbouring
// tokens.
struct ValueOperand {
  std::uint32_t word[weight_words];

  template <int HeadDim, bool Fp8 = false>
  GPU_DEVICE_MEMBER void load(SharedAddress values, unsigned first_token, unsigned tile) {
    using Head = HeadTile<HeadDim, Fp8>;
    constexpr unsigned element = Fp8 ? 1 : 2, in_chunk = 16 / element;
    const unsigned lane = fresh(gpu_lane()), dimension = 16 * tile + lane % 16;
    const unsigned token = first_token + lane / 16 * (2 * weight_words);
    const auto address = [&](unsigned i) {
      return values + Head::offset(token + i, dimension / in_chunk) + dimension % in_chunk * element;
    };
    GPU_UNROLL for (unsigned i = 0; i < weight_words; i++) {
      if constexpr (Fp8) {
        word[i] = bf16_of_e4m3(load_shared_8(address(2 * i)) | load_shared_8(address(2 * i + 1)) << 8);
      } else {
        word[i] = load_shared_16(address(2 * i)) | load_shared_16(address(2 * i + 1)) << 16;
      }
    }
  }
};
// The 16 dimensions that begin at out[part] += weights · values.
template <int Parts>
GPU_DEVICE void multiply_tokens(float (&out)[Parts][4], int part,
                                const std::uint32_t (&weights)[weight_words], const ValueOperand& values) {
#if ORRERY_MATRIX_TARGET == 942
  mfma_16x16x16_bf16(out[part], values.word, weights);
#else
  float sums[2][4];
  GPU_UNROLL for (int i = 0; i < 8; i++) sums[i / 4][i % 4] = out[part + i / 4][i % 4];
  wmma_16x16x16_bf16(sums, values.word, weights);
  GPU_UNROLL for (int i = 0; i < 8; i++) out[part + i / 4][i % 4] = sums[i / 4][i % 4];
#endif
}

// out += weights · values of the tile's 16 tokens.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_values(const std::uint32_t (&weights)[weight_words], SharedAddress values,
                                float (&out)[HeadDim / 16 * tile_parts][4]) {
  GPU_UNROLL for (int tile = 0; tile < HeadDim / 16; tile++) {
    ValueOperand v;
    v.load<HeadDim, Fp8>(values, 0, static_cast<unsigned>(tile));
    multiply_tokens(out, tile_parts * tile, weights, v);
    keep_order();
  }
}

// The same of a vectorised tile, of which `tokens` count: a lane's tokens of a dimension are one load.
template <int HeadDim, bool Fp8>
GPU_DEVICE void multiply_vectors(const std::uint32_t (&weights)[weight_words], SharedAddress values,
                                 int tokens, float (&out)[HeadDim / 16 * tile_parts][4]) {
  struct Bf16Words {
    std::uint32_t word[weight_words];
  };
  struct Fp8Words {
    std::uint32_t word[weight_words / 2];
  };
  const unsigned lane = fresh(gpu_lane()), first = lane / 16 * (2 * weight_words);
  GPU_UNROLL for (unsigned tile = 0; tile < HeadDim / 16; tile++) {
    ValueOperand v;
    const unsigned dimension = 16 * tile + lane % 16;
    if constexpr (Fp8) {
      const Fp8Words stored = load_shared<Fp8Words>(values + dimension * 16 + first);
      GPU_UNROLL for (int i = 0; i < weight_words; i++) {
        v.word[i] = bf16_of_e4m3(stored.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU);
      }
    } else {
      const Bf16Words stored =
          load_shared<Bf16Words>(values + (first / 8 * HeadDim + dimension) * 16 + first % 8 * 2);
      GPU_UNROLL for (int i = 0; i < weight_words; i++) v.word[i] = stored.word[i];
    }
    GPU_UNROLL for (int i = 0; i < weight_words; i++) {
      v.word[i] = below<16>(v.word[i], static_cast<int>(first) + 2 * i, tokens);
    }
    multiply_tokens(out, tile_parts * static_cast<int>(tile), weights, v);
    keep_order();
  }
}

}  // namespace orrery::kernels
