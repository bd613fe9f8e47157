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
// A byte of e4m3 that is no NaN, in the top bits: its exponent and mantissa in a float's place are the value
// times 2⁻¹²⁰, subnormal ones too.
GPU_DEVICE float float_of_e4m3(std::uint32_t byte_on_top) {
  const auto spread = static_cast<std::uint32_t>(static_cast<std::int32_t>(byte_on_top) >> 4);
  return gpu_bit_cast<float>(spread & 0x87F00000U) * 0x1p120F;
}
GPU_DEVICE bool any_nan_e4m3(const GpuBytes16& stored) {
  std::uint32_t found = 0;
  GPU_UNROLL for (int i = 0; i < 4; i++) found |= (stored.word[i] & 0x7F7F7F7FU) + 0x01010101U;
  return (found & 0x80808080U) != 0;
}
// Sixteen by shifts: on Hopper conversions from e4m3 took longer than everything else that brings a tile.
GPU_DEVICE LatentSixteen unpack_latent_bits(const GpuBytes16& stored, float scale) {
  LatentSixteen out;
  // A NaN makes its token's score one, and with it everything: no matter which of the sixteen it was.
  if (any_nan_e4m3(stored)) scale = gpu_bit_cast<float>(0x7FC00000U);
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    const std::uint32_t word = stored.word[i / 2];
    const int left = 24 - 16 * (i % 2);
    out.half[i / 4].word[i % 4] =
        gpu_pack_bf16(float_of_e4m3(word << left) * scale, float_of_e4m3(word << (left - 8)) * scale);
  }
  return out;
}

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
GPU_DEVICE LatentSixteen unpack_latent(const GpuBytes16& stored, float scale) {
  LatentSixteen out;
  GPU_UNROLL for (int i = 0; i < 8; i++) {
    out.half[i / 4].word[i % 4] = bf16_of_scaled_e4m3(stored.word[i / 2] >> (16 * (i % 2)) & 0xFFFFU, scale);
  }
  return out;
}

}  // namespace orrery::kernels
