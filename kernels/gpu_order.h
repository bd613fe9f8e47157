// Floats as unsigned integers of the same order, so that a maximum and where it stands are one integer
// maximum. Include it from .cu files only.
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

// Greater floats give greater keys; −0 below +0. Numbers use [2²³, 2³² − 2²³): room for NaN on either side.
GPU_DEVICE std::uint32_t order_key(float value) {
  const std::uint32_t bits = gpu_bit_cast<std::uint32_t>(value);
  return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

// Key in the high half, and of equal keys the lower index wins.
GPU_DEVICE std::uint64_t order_pair(std::uint32_t key, std::uint32_t index) {
  return std::uint64_t{key} << 32 | (0xFFFFFFFFU - index);
}
GPU_DEVICE std::uint32_t index_of_pair(std::uint64_t pair) {
  return 0xFFFFFFFFU - static_cast<std::uint32_t>(pair);
}

GPU_DEVICE std::uint64_t larger(std::uint64_t a, std::uint64_t b) { return a > b ? a : b; }
GPU_DEVICE std::uint64_t gpu_warp_max(std::uint64_t value) {
  GPU_UNROLL for (unsigned mask = GPU_WARP / 2; mask > 0; mask /= 2) {
    value = larger(value, gpu_shuffle_xor(value, mask));
  }
  return value;
}

}  // namespace orrery::kernels
