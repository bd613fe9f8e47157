#include "kernels/reduce_add_rms_norm.h"

#include "kernels/row.h"

namespace orrery::kernels {

namespace {

// Adds the ranks' parts. The count is known to the compiler, so that all their loads are under way at once.
template <int ranks, int vectors>
GPU_DEVICE Row<vectors> load_sum(const ReduceAddRmsNormLaunch& a, std::size_t begin) {
  Row<vectors> row;
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
    row.part[v] = GpuFloat8{};
    if (at >= a.columns / 8) continue;
    GpuBytes16 part[ranks];
    GPU_UNROLL for (int r = 0; r < ranks; ++r) part[r] = gpu_load<GpuBytes16>(a.parts[r] + begin, at);
    GPU_UNROLL for (int r = 0; r < ranks; ++r) {
      const GpuFloat8 values = gpu_unpack_bf16(part[r]);
      GPU_UNROLL for (int i = 0; i < 8; ++i) row.part[v].value[i] += values.value[i];
    }
  }
  return row;
}

template <int ranks, int vectors, Fp8Scaling scaling>
__global__ void __launch_bounds__(1024) reduce_add_rms_norm_kernel(ReduceAddRmsNormLaunch a) {
  const std::size_t at = std::size_t{blockIdx.x} * static_cast<std::size_t>(a.columns);
  Row<vectors> row = load_sum<ranks, vectors>(a, at);
  add_residual(row, a.residual + at, a.residual_out + at, a.columns);
  normalise_row(row, a.weight, a.columns, a.epsilon);
  if constexpr (scaling == Fp8Scaling::none) {
    store_row(a.out + at, row, a.columns);
  } else {
    quantize_row<scaling>(row, a.quantized, blockIdx.x, a.columns);
  }
}

template <int ranks, int vectors>
void launch_ranks(const ReduceAddRmsNormLaunch& a, unsigned threads, void* stream) {
  auto* kernel = reduce_add_rms_norm_kernel<ranks, vectors, Fp8Scaling::none>;
  switch (a.quantized.scaling) {
    case Fp8Scaling::none: break;
    case Fp8Scaling::tensor: kernel = reduce_add_rms_norm_kernel<ranks, vectors, Fp8Scaling::tensor>; break;
    case Fp8Scaling::token: kernel = reduce_add_rms_norm_kernel<ranks, vectors, Fp8Scaling::token>; break;
    case Fp8Scaling::group: kernel = reduce_add_rms_norm_kernel<ranks, vectors, Fp8Scaling::group>; break;
  }
  gpu_launch(kernel, {static_cast<unsigned>(a.rows)}, threads, stream, a);
}

}  // namespace

void launch_reduce_add_rms_norm(const ReduceAddRmsNormLaunch& a, void* stream) {
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    constexpr int count = decltype(vectors)::count;
    switch (a.ranks) {
      case 2: return launch_ranks<2, count>(a, threads, stream);
      case 4: return launch_ranks<4, count>(a, threads, stream);
      default: return launch_ranks<8, count>(a, threads, stream);
    }
  });
}

}  // namespace orrery::kernels
