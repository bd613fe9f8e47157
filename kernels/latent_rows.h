// Rows of a latent cache as device code reads them: where they lie, and what is stored in eight bits as bf16.
// Include it from .cu files only.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/matrix_tile.h"
#include "kernels/mla_decode.h"

namespace orrery::kernels {

template <LatentFormat Format>
constexpr int latent_bytes = latent_row_bytes(Format);  // device code calls no function of the host

// Row of the cache that holds a sequence's token, or its pick of that number.
GPU_DEVICE std::int64_t latent_row(const LatentKv& kv, int sequence, int token) {
  if (kv.picks != nullptr) return kv.picks[sequence * kv.picks_stride + token];
  const int block = token / kv.block_size;
  return std::int64_t{kv.block_table[sequence * kv.table_stride + block]} * kv.block_size +
         (token - block * kv.block_size);
}

// Sixteen e4m3 · scale as bf16, each rounded once: so FlashMLA's sparse kernel multiplies them out too.
struct LatentSixteen {
  GpuBytes16 half[2];
};
#if ORRERY_MATRIX_TARGET != 0
template <bool Scaled>
GPU_DEVICE LatentSixteen unpack_latent(const GpuBytes16& stored, float scale) {
  LatentSixteen out;
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    const std::uint32_t exact = bf16_of_e4m3(stored.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU);
    out.half[i / 4].word[i % 4] = gpu_pack_bf16(gpu_low_bf16(exact) * scale, gpu_high_bf16(exact) * scale);
  }
  return out;
}
#else
// A code's bits in the place of a wider exponent and mantissa are worth its value · 2⁻¹²⁰, also below the
// least normal number: some integer instructions and one product, exact, in place of three conversions. Only
// NaN must be seen to. It makes all sixteen NaN, which comes to the same: a key with one makes every score of
// its token NaN, and so every output. Scales from 256 on (latents from 114,688) would become infinite.
constexpr float latent_code_worth = 1.329227995784916e36F;  // 2¹²⁰
GPU_DEVICE std::uint32_t bf16_of_latent_codes(std::uint32_t two, bool nan) {
#if defined(ORRERY_SIMULATED_WARP)
  const float worth = nan ? gpu_bit_cast<float>(0x7FC00000U) : latent_code_worth;
  return gpu_pack_bf16(gpu_low_bf16(two) * worth, gpu_high_bf16(two) * worth);
#else
  std::uint32_t out;  // · 2¹²⁰ − 0
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(out)
      : "r"(two), "r"(nan ? 0x7FFF7FFFU : 0x7B807B80U), "r"(0x80008000U));
  return out;
#endif
}
GPU_DEVICE float latent_code(std::uint32_t word, int byte) {
  const auto first = static_cast<std::int32_t>(word << (24 - 8 * byte));
  return gpu_bit_cast<float>(static_cast<std::uint32_t>(first >> 4) & 0x87F00000U);
}

template <bool Scaled>
GPU_DEVICE LatentSixteen unpack_latent(const GpuBytes16& stored, float scale) {
  std::uint32_t carries = 0;
  GPU_UNROLL for (int i = 0; i < 4; i++) carries |= (stored.word[i] & 0x7F7F7F7FU) + 0x01010101U;
  const bool nan = (carries & 0x80808080U) != 0;
  const float each = nan ? gpu_bit_cast<float>(0x7FC00000U) : scale * latent_code_worth;
  LatentSixteen out;
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    const std::uint32_t word = stored.word[i / 2];
    std::uint32_t& two = out.half[i / 4].word[i % 4];
    if constexpr (Scaled) {
      two = gpu_pack_bf16(latent_code(word, i % 2 * 2) * each, latent_code(word, i % 2 * 2 + 1) * each);
    } else {
      const std::uint32_t spread = permute_bytes(word, 0, i % 2 == 0 ? 0x1404 : 0x3424);
      two = bf16_of_latent_codes((spread & 0x80008000U) | (spread >> 4 & 0x07F007F0U), nan);
    }
  }
  return out;
}
#endif

}  // namespace orrery::kernels
