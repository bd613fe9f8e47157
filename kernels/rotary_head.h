// Device code of kernels that norm and turn heads: a head is `lanes` neighbouring lanes, eight elements each;
// the partner of a lane's elements sits lanes/2 away. Include it from .cu files only.
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

GPU_DEVICE GpuFloat8 load8_fp32(const float* from, unsigned vector) {
  GpuFloat8 out;
  GPU_UNROLL for (unsigned part = 0; part < 2; ++part) {
    const GpuBytes16 raw = gpu_load<GpuBytes16>(from, 2 * vector + part);
    GPU_UNROLL for (int i = 0; i < 4; ++i) out.value[4 * part + i] = gpu_bit_cast<float>(raw.word[i]);
  }
  return out;
}

template <unsigned lanes>
GPU_DEVICE void normalise_head(GpuFloat8& x, const std::uint16_t* weight, unsigned vector, float epsilon) {
  float squares = 0;
  GPU_UNROLL for (int i = 0; i < 8; ++i) squares += x.value[i] * x.value[i];
  const float factor = gpu_rsqrt(gpu_group_sum<lanes>(squares) * (1.0F / (8 * lanes)) + epsilon);
  const GpuFloat8 w = gpu_unpack_bf16(gpu_load<GpuBytes16>(weight, vector));
  GPU_UNROLL for (int i = 0; i < 8; ++i) x.value[i] *= factor * w.value[i];
}

// What the elements turn with. All lanes call it.
template <unsigned lanes>
GPU_DEVICE GpuFloat8 partner_of(const GpuFloat8& x) {
  GpuFloat8 partner;
  GPU_UNROLL for (int i = 0; i < 8; ++i) partner.value[i] = gpu_shuffle_xor(x.value[i], lanes / 2);
  return partner;
}

// `table`: the position's cosines, then its sines.
template <unsigned lanes>
GPU_DEVICE void rotate_head(GpuFloat8& x, const GpuFloat8& partner, const float* table, unsigned vector) {
  const unsigned angle = vector % (lanes / 2);
  const GpuFloat8 cosine = load8_fp32(table, angle), sine = load8_fp32(table, angle + lanes / 2);
  const float sign = vector < lanes / 2 ? -1.0F : 1.0F;
  GPU_UNROLL for (int i = 0; i < 8; ++i) {
    x.value[i] = x.value[i] * cosine.value[i] + sign * partner.value[i] * sine.value[i];
  }
}

}  // namespace orrery::kernels
