// Device code that turns registers into fp8 with a scale. Include it from .cu files only.
#pragma once

#include "kernels/fp8_output.h"
#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

constexpr unsigned lanes_of_group = fp8_group / 8;  // neighbouring lanes that hold a group, eight values each

GPU_DEVICE float largest_magnitude(const GpuFloat8& v) {
  float largest = 0;
  GPU_UNROLL for (int i = 0; i < 8; ++i) largest = gpu_max(largest, gpu_abs(v.value[i]));
  return largest;
}

GPU_DEVICE float scale_for(float largest) {
  return gpu_max(largest, fp8_least_magnitude) * (1.0F / gpu_fp8_largest);
}

// Eight values of row `row` that begin at column 8 · vector. `inside` is false for lanes beyond the row's
// end: they take part in the exchange and store nothing. For tensor, token: `scale` is known. For group: the
// lanes of a group, aligned to lanes_of_group, call together and the scale is computed and stored here.
template <Fp8Scaling scaling>
GPU_DEVICE void quantize8(const GpuFloat8& v, const Fp8Output& out, std::int64_t row, int vector, int columns,
                          bool inside, float scale) {
  if constexpr (scaling == Fp8Scaling::group) {
    scale = scale_for(gpu_group_max<lanes_of_group>(largest_magnitude(v)));
    const int group = vector / static_cast<int>(lanes_of_group);
    if (inside && vector % static_cast<int>(lanes_of_group) == 0) {
      out.scales[row * out.row_stride + group * out.group_stride] = scale;
    }
  }
  if (!inside) return;
  const std::int64_t at = row * (columns / 8) + vector;
  gpu_store(out.values, static_cast<std::size_t>(at), gpu_pack8_fp8(v, gpu_reciprocal(scale)));
}

}  // namespace orrery::kernels
