// Device code of kernels that give a block to a row: the row stays in registers between its two passes, eight
// values a vector, `vectors` vectors a thread. Include it from .cu files only.
#pragma once

#include "kernels/fp8_quantize.h"

namespace orrery::kernels {

template <int vectors>
struct Row {
  GpuFloat8 part[vectors];
};

// Thread t holds vectors t, t + blockDim.x, …; those beyond the row's end are zero.
template <int vectors>
GPU_DEVICE Row<vectors> load_row(const std::uint16_t* x, int columns) {
  Row<vectors> row;
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    row.part[v] = at < columns / 8 ? gpu_unpack_bf16(gpu_load<GpuBytes16>(x, at)) : GpuFloat8{};
  }
  return row;
}

template <int vectors>
GPU_DEVICE void store_row(std::uint16_t* out, const Row<vectors>& row, int columns) {
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    if (at < columns / 8) gpu_store(out, at, gpu_pack8_bf16(row.part[v]));
  }
}

// One vector of add_residual: `at` is where it goes in `sum`.
GPU_DEVICE void add_vector(GpuFloat8& part, const GpuBytes16& residual, std::uint16_t* sum, int at) {
  const GpuFloat8 other = gpu_unpack_bf16(residual);
  GPU_UNROLL for (int i = 0; i < 8; ++i) part.value[i] += other.value[i];
  // What is normalised is what the next layer will read as residual: the rounded sum.
  const GpuBytes16 rounded = gpu_pack8_bf16(part);
  gpu_store(sum, at, rounded);
  part = gpu_unpack_bf16(rounded);
}

// row += residual; the sum is rounded, written to `sum`, and what is left in the row is what was written.
template <int vectors>
GPU_DEVICE void add_residual(Row<vectors>& row, const std::uint16_t* residual, std::uint16_t* sum,
                             int columns) {
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    if (at < columns / 8) add_vector(row.part[v], gpu_load<GpuBytes16>(residual, at), sum, at);
  }
}

// row · 1/√(mean of squares + ε) · weight. All threads of the block call it.
template <int vectors>
GPU_DEVICE void normalise_row(Row<vectors>& row, const std::uint16_t* weight, int columns, float epsilon) {
  float squares = 0;
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    GPU_UNROLL for (int i = 0; i < 8; ++i) squares += row.part[v].value[i] * row.part[v].value[i];
  }
  const float factor = gpu_rsqrt(gpu_block_sum(squares) / static_cast<float>(columns) + epsilon);
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    if (at >= columns / 8) continue;
    const GpuFloat8 w = gpu_unpack_bf16(gpu_load<GpuBytes16>(weight, at));
    GPU_UNROLL for (int i = 0; i < 8; ++i) row.part[v].value[i] *= factor * w.value[i];
  }
}

// The row as fp8. All threads of the block call it.
template <Fp8Scaling scaling, int vectors>
GPU_DEVICE void quantize_row(const Row<vectors>& row, const Fp8Output& out, std::int64_t index, int columns) {
  float scale = 0;
  if constexpr (scaling == Fp8Scaling::tensor) scale = out.scales[0];
  if constexpr (scaling == Fp8Scaling::token) {
    float largest = 0;
    GPU_UNROLL for (int v = 0; v < vectors; ++v) largest = gpu_max(largest, largest_magnitude(row.part[v]));
    scale = scale_for(gpu_block_max(largest));
    if (threadIdx.x == 0) out.scales[index * out.row_stride] = scale;
  }
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    quantize8<scaling>(row.part[v], out, index, at, columns, at < columns / 8, scale);
  }
}

// Block size and vectors a thread for a row: one vector a thread up to 2048 columns, because more threads
// hide more latency; beyond, two to four keep the block at 256 to 1024 threads. Calls launch(vectors,
// threads) with `vectors` as a compile-time constant.
template <int value>
struct Vectors {
  static constexpr int count = value;
};
template <class Launch>
void for_row(std::int32_t columns, Launch launch) {
  const int needed = columns / 8;
  const auto threads = [&](int vectors) {
    const int each = (needed + vectors - 1) / vectors;
    return static_cast<unsigned>((each + 63) / 64 * 64);
  };
  if (needed <= 256) return launch(Vectors<1>(), threads(1));
  if (needed <= 1024) return launch(Vectors<2>(), threads(2));
  return launch(Vectors<4>(), threads(4));
}

}  // namespace orrery::kernels
