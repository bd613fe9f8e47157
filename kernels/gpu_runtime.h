// What a kernel is written against: one source for CUDA, for AMD (freestanding HIP: gfx942, gfx1201) and for
// the CPU fibre simulator. Include it from .cu files only.
//
// From the backends: GPU_WARP (lanes of a warp, a device-code constant: never in a host-visible type),
// GPU_SHARED, gpu_barrier, gpu_lane, gpu_shuffle, gpu_ballot, gpu_max …, gpu_atomic_*, gpu_pack_bf16,
// gpu_pack_fp8, gpu_fp8_largest, gpu_launch, gpu_launch_early, gpu_compute_units. Block sizes are multiples
// of 64, so that every warp is full on every target.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(ORRERY_SIMULATED_WARP)
#include "kernels/gpu_backend_simulator.h"
#elif defined(__HIP__)
#include "kernels/gpu_backend_hip.h"
#else
#include "kernels/gpu_backend_cuda.h"
#endif

namespace orrery::kernels {

template <class T>
GPU_DEVICE T gpu_shuffle_xor(T value, unsigned mask) {
  return gpu_shuffle(value, gpu_lane() ^ mask);
}
GPU_DEVICE unsigned gpu_warp_index() { return threadIdx.x / GPU_WARP; }

// Sum and maximum over groups of `width` neighbouring lanes (a power of two ≤ GPU_WARP); all lanes get it.
template <unsigned width = GPU_WARP>
GPU_DEVICE float gpu_group_sum(float value) {
  GPU_UNROLL for (unsigned mask = width / 2; mask > 0; mask /= 2) value += gpu_shuffle_xor(value, mask);
  return value;
}
template <unsigned width = GPU_WARP>
GPU_DEVICE float gpu_group_max(float value) {
  GPU_UNROLL for (unsigned mask = width / 2; mask > 0; mask /= 2) {
    value = gpu_max(value, gpu_shuffle_xor(value, mask));
  }
  return value;
}

constexpr float gpu_infinity = __builtin_huge_valf();
constexpr unsigned gpu_most_warps = 1024 / 32;  // of a block, on any target

// Over the whole block, the result in every thread. Every thread must call it; two calls may follow each
// other directly: the barrier at the end keeps the second from writing over what the first still reads.
template <class Combine>
GPU_DEVICE float gpu_block_combine(float of_warp, float neutral, Combine combine) {
  GPU_SHARED(float, parts, gpu_most_warps);
  if (gpu_lane() == 0) parts[gpu_warp_index()] = of_warp;
  gpu_barrier();
  float result = neutral;
  for (unsigned i = 0; i < blockDim.x / GPU_WARP; ++i) result = combine(result, parts[i]);
  gpu_barrier();
  return result;
}
struct GpuAdd {
  GPU_DEVICE_MEMBER float operator()(float a, float b) const { return a + b; }
};
struct GpuMax {
  GPU_DEVICE_MEMBER float operator()(float a, float b) const { return gpu_max(a, b); }
};
GPU_DEVICE float gpu_block_sum(float value) {
  return gpu_block_combine(gpu_group_sum(value), 0.0F, GpuAdd());
}
GPU_DEVICE float gpu_block_max(float value) {  // of values ≥ 0; NaN is left out
  return gpu_block_combine(gpu_group_max(value), 0.0F, GpuMax());
}

// 16 bytes: one memory instruction. Addresses are multiples of 16.
struct alignas(16) GpuBytes16 {
  std::uint32_t word[4];
};
struct alignas(8) GpuBytes8 {
  std::uint32_t word[2];
};
struct GpuFloat8 {
  float value[8];
};

GPU_DEVICE float gpu_low_bf16(std::uint32_t pair) { return gpu_bit_cast<float>(pair << 16); }
GPU_DEVICE float gpu_high_bf16(std::uint32_t pair) { return gpu_bit_cast<float>(pair & 0xFFFF0000U); }
GPU_DEVICE float gpu_from_bf16(std::uint16_t bits) { return gpu_bit_cast<float>(std::uint32_t{bits} << 16); }
GPU_DEVICE std::uint16_t gpu_to_bf16(float value) {
  return static_cast<std::uint16_t>(gpu_pack_bf16(value, 0.0F));
}

// Eight bf16 values to and from registers.
GPU_DEVICE GpuFloat8 gpu_unpack_bf16(const GpuBytes16& packed) {
  GpuFloat8 out;
  GPU_UNROLL for (int i = 0; i < 4; ++i) {
    out.value[2 * i] = gpu_low_bf16(packed.word[i]);
    out.value[2 * i + 1] = gpu_high_bf16(packed.word[i]);
  }
  return out;
}
GPU_DEVICE GpuBytes16 gpu_pack8_bf16(const GpuFloat8& in) {
  GpuBytes16 packed;
  GPU_UNROLL for (int i = 0; i < 4; ++i) packed.word[i] = gpu_pack_bf16(in.value[2 * i], in.value[2 * i + 1]);
  return packed;
}
GPU_DEVICE GpuBytes8 gpu_pack8_fp8(const GpuFloat8& in, float factor) {
  GpuBytes8 packed;
  GPU_UNROLL for (int i = 0; i < 2; ++i) {
    const float* v = in.value + 4 * i;
    packed.word[i] = gpu_pack_fp8(v[0] * factor, v[1] * factor, v[2] * factor, v[3] * factor);
  }
  return packed;
}
template <class T>
GPU_DEVICE T gpu_load(const void* base, std::size_t index) {
  return static_cast<const T*>(base)[index];
}
template <class T>
GPU_DEVICE void gpu_store(void* base, std::size_t index, const T& value) {
  static_cast<T*>(base)[index] = value;
}

// Where a thread stands when threads are dealt over all vectors of a matrix, `width` to a row. 32 bits,
// because a 64-bit division costs as much as the rest of a small kernel: matrices have fewer than 2³²
// vectors.
struct GpuPlace {
  unsigned row, vector;
};
GPU_DEVICE GpuPlace gpu_place(unsigned index, unsigned width) {
  const unsigned row = index / width;
  return {row, index - row * width};
}
GPU_DEVICE unsigned gpu_thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Rounded up; for grids.
constexpr unsigned gpu_blocks_for(std::int64_t work, std::int64_t per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

}  // namespace orrery::kernels
