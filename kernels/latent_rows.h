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

// Two e4m3 · scale as bf16, each rounded once: so FlashMLA's sparse kernel multiplies them out too.
GPU_DEVICE std::uint32_t bf16_of_scaled_e4m3(std::uint32_t two, float scale) {
#if ORRERY_MATRIX_TARGET != 0
  const std::uint32_t exact = bf16_of_e4m3(two);
  return gpu_pack_bf16(gpu_low_bf16(exact) * scale, gpu_high_bf16(exact) * scale);
#elif defined(ORRERY_SIMULATED_WARP)
  return gpu_pack_bf16(simulated::decode_e4m3(two & 0xFFU) * scale,
                       simulated::decode_e4m3(two >> 8 & 0xFFU) * scale);
#else
  float low, high;
  asm("{\n.reg .b32 both;\n.reg .b16 a, b;\ncvt.rn.f16x2.e4m3x2 both, %2;\nmov.b32 {a, b}, both;\n"
      "cvt.f32.f16 %0, a;\ncvt.f32.f16 %1, b;\n}\n"
      : "=f"(low), "=f"(high)
      : "h"(static_cast<std::uint16_t>(two)));
  return gpu_pack_bf16(low * scale, high * scale);
#endif
}

struct LatentSixteen {
  GpuBytes16 half[2];
};
// Sixteen e4m3 with a scale of their own. Shifts, as below, into fp32 were 3 to 12 % slower on an H200.
GPU_DEVICE LatentSixteen unpack_scaled_latent(const GpuBytes16& stored, float scale) {
  LatentSixteen out;
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    out.half[i / 4].word[i % 4] = bf16_of_scaled_e4m3(stored.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU, scale);
  }
  return out;
}

#if ORRERY_MATRIX_TARGET != 0
GPU_DEVICE LatentSixteen unpack_latent(const GpuBytes16& stored) { return unpack_scaled_latent(stored, 1); }
#else
// Two codes in the place of a wider exponent and mantissa, in which they are worth their values · 2⁻¹²⁰.
GPU_DEVICE std::uint32_t bf16_of_latent_codes(std::uint32_t two, bool nan) {
#if defined(ORRERY_SIMULATED_WARP)
  const float worth = nan ? gpu_bit_cast<float>(0x7FC00000U) : 1.329227995784916e36F;  // 2¹²⁰
  return gpu_pack_bf16(gpu_low_bf16(two) * worth, gpu_high_bf16(two) * worth);
#else
  std::uint32_t out;  // · 2¹²⁰ − 0
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(out)
      : "r"(two), "r"(nan ? 0x7FFF7FFFU : 0x7B807B80U), "r"(0x80008000U));
  return out;
#endif
}
// Sixteen e4m3 as they are, by shifts and one product, which is exact, also below the least normal number.
// Only NaN must be seen to. It makes all sixteen NaN, which comes to the same: a key with one makes every
// score of its token NaN, and so every output.
GPU_DEVICE LatentSixteen unpack_latent(const GpuBytes16& stored) {
  std::uint32_t carries = 0;
  GPU_UNROLL for (int i = 0; i < 4; i++) carries |= (stored.word[i] & 0x7F7F7F7FU) + 0x01010101U;
  const bool nan = (carries & 0x80808080U) != 0;
  LatentSixteen out;
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    const std::uint32_t spread = permute_bytes(stored.word[i / 2], 0, i % 2 == 0 ? 0x1404 : 0x3424);
    out.half[i / 4].word[i % 4] =
        bf16_of_latent_codes((spread & 0x80008000U) | (spread >> 4 & 0x07F007F0U), nan);
  }
  return out;
}
#endif

// What a cache of this format holds.
template <LatentFormat Format>
GPU_DEVICE LatentSixteen unpack_latent_of(const GpuBytes16& stored, float scale) {
  if constexpr (Format == LatentFormat::packed) return unpack_scaled_latent(stored, scale);
  return unpack_latent(stored);
}

}  // namespace orrery::kernels
