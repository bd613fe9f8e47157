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
