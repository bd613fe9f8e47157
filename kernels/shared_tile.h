// How tiles lie in shared memory so that neither copies nor fragment loads collide, on every target.
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

// Byte offset of 16-byte chunk `chunk` of `row` in a tile whose rows are 128 bytes: eight rows' equal chunks
// fall into eight different groups of banks, so that neither copies nor ldmatrix collide.
GPU_DEVICE std::uint32_t swizzled_128(std::uint32_t row, std::uint32_t chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

}  // namespace orrery::kernels
