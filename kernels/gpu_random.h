// Counter-based noise on the device: Philox4x32-10 (Salmon et al., SC 2011), the generator of base/random.h,
// so that the value at a place depends on seed and place only, never on the grid.
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

struct GpuRandom4 {
  std::uint32_t bits[4];
};

GPU_DEVICE GpuRandom4 gpu_philox(std::uint64_t seed, std::uint64_t counter, std::uint32_t stream) {
  GpuRandom4 c = {
      {static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32), stream, 0}};
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  GPU_UNROLL for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53U} * c.bits[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57U} * c.bits[2];
    c = {{static_cast<std::uint32_t>(p1 >> 32) ^ c.bits[1] ^ k0, static_cast<std::uint32_t>(p1),
          static_cast<std::uint32_t>(p0 >> 32) ^ c.bits[3] ^ k1, static_cast<std::uint32_t>(p0)}};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return c;
}

// In (0, 1): 23 bits and a half, so that neither end is reached.
GPU_DEVICE float gpu_uniform(std::uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5F) * (1.0F / 8388608.0F);
}

}  // namespace orrery::kernels
