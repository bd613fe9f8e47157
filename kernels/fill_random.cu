#include "kernels/fill_random.h"

#include <algorithm>

#include "kernels/gpu_random.h"

namespace orrery::kernels {

namespace {

// Four normal deviates from 128 bits (Box-Muller).
GPU_DEVICE void normal4(const GpuRandom4& random, float scale, float out[4]) {
  GPU_UNROLL for (int i = 0; i < 2; ++i) {
    constexpr float two_ln2 = 1.38629436F;
    const float radius = scale * gpu_sqrt(-two_ln2 * gpu_log2(gpu_uniform(random.bits[2 * i])));
    const float turns = gpu_uniform(random.bits[2 * i + 1]);
    out[2 * i] = radius * gpu_cos_turns(turns);
    out[2 * i + 1] = radius * gpu_sin_turns(turns);
  }
}

template <RandomType type>
GPU_DEVICE void store_one(void* out, std::int64_t index, float value) {
  if constexpr (type == RandomType::fp32) {
    static_cast<float*>(out)[index] = value;
  } else if constexpr (type == RandomType::bf16) {
    static_cast<std::uint16_t*>(out)[index] = gpu_to_bf16(value);
  } else {
    static_cast<std::uint8_t*>(out)[index] = static_cast<std::uint8_t>(gpu_pack_fp8(value, 0, 0, 0));
  }
}

template <RandomType type>
GPU_DEVICE void store_four(void* out, std::size_t quad, const float v[4]) {
  if constexpr (type == RandomType::fp32) {
    gpu_store(out, quad,
              GpuBytes16{{gpu_bit_cast<std::uint32_t>(v[0]), gpu_bit_cast<std::uint32_t>(v[1]),
                          gpu_bit_cast<std::uint32_t>(v[2]), gpu_bit_cast<std::uint32_t>(v[3])}});
  } else if constexpr (type == RandomType::bf16) {
    gpu_store(out, quad, GpuBytes8{{gpu_pack_bf16(v[0], v[1]), gpu_pack_bf16(v[2], v[3])}});
  } else {
    gpu_store(out, quad, gpu_pack_fp8(v[0], v[1], v[2], v[3]));
  }
}

template <RandomType type>
__global__ void __launch_bounds__(256)
    fill_random_kernel(void* out, std::int64_t elements, float scale, std::uint64_t seed) {
  const std::int64_t stride = std::int64_t{4} * blockDim.x * gridDim.x;
  for (std::int64_t at = 4 * (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x); at < elements;
       at += stride) {
    float values[4];
    normal4(gpu_philox(seed, static_cast<std::uint64_t>(at / 4), 0), scale, values);
    if (at + 4 <= elements) {
      store_four<type>(out, static_cast<std::size_t>(at / 4), values);
    } else {
      for (int i = 0; i < 4 && at + i < elements; ++i) store_one<type>(out, at + i, values[i]);
    }
  }
}

}  // namespace

void launch_fill_random(const FillRandomLaunch& a, void* stream) {
  const unsigned blocks = std::min(gpu_blocks_for(a.elements, 1024), 16 * gpu_compute_units());
  auto* kernel = fill_random_kernel<RandomType::bf16>;
  if (a.type == RandomType::fp32) kernel = fill_random_kernel<RandomType::fp32>;
  if (a.type == RandomType::fp8) kernel = fill_random_kernel<RandomType::fp8>;
  gpu_launch(kernel, {blocks}, 256, stream, a.out, a.elements, a.scale, a.seed);
}

}  // namespace orrery::kernels
