// Device code of the gate of an MLP (silu_mul.h). Include it from .cu files only.
#pragma once

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

GPU_DEVICE float silu(float gate) {
  constexpr float log2_e = 1.44269504F;
  return gate * gpu_reciprocal(1.0F + gpu_exp2(-log2_e * gate));
}

// Eight results of row `row`; `half` is the row's number of vectors.
GPU_DEVICE GpuFloat8 gated(const std::uint16_t* gate_up, std::int64_t row, int vector, int half) {
  const std::size_t at = static_cast<std::size_t>(row * 2 * half + vector);
  const GpuFloat8 gate = gpu_unpack_bf16(gpu_load<GpuBytes16>(gate_up, at));
  const GpuFloat8 up = gpu_unpack_bf16(gpu_load<GpuBytes16>(gate_up, at + static_cast<std::size_t>(half)));
  GpuFloat8 out;
  GPU_UNROLL for (int i = 0; i < 8; ++i) out.value[i] = silu(gate.value[i]) * up.value[i];
  return out;
}

// Everything of row `row` as a block holds it (row.h).
template <class Row, int vectors>
GPU_DEVICE Row gated_row(const std::uint16_t* gate_up, std::int64_t row, int half) {
  Row out;
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    out.part[v] = at < half ? gated(gate_up, row, at, half) : GpuFloat8{};
  }
  return out;
}

}  // namespace orrery::kernels
