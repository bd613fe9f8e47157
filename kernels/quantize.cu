#include "kernels/quantize.h"

#include "kernels/row.h"

namespace orrery::kernels {

namespace {

// Scales that are given or belong to a group: threads are dealt over all rows.
template <Fp8Scaling scaling>
__global__ void __launch_bounds__(256) quantize_flat_kernel(QuantizeLaunch a) {
  const int vectors = a.columns / 8;
  const unsigned at = gpu_thread_index();
  const GpuPlace place = gpu_place(at, static_cast<unsigned>(vectors));
  const std::int64_t row = place.row;
  const bool inside = row < (a.used_rows != nullptr ? *a.used_rows : a.rows);
  const GpuFloat8 values = inside ? gpu_unpack_bf16(gpu_load<GpuBytes16>(a.x, at)) : GpuFloat8{};
  const float scale = scaling == Fp8Scaling::tensor ? a.out.scales[0] : 0;
  quantize8<scaling>(values, a.out, row, static_cast<int>(place.vector), a.columns, inside, scale);
}

template <int vectors>
__global__ void __launch_bounds__(1024) quantize_row_kernel(QuantizeLaunch a) {
  const std::size_t at = std::size_t{blockIdx.x} * static_cast<std::size_t>(a.columns);
  const Row<vectors> row = load_row<vectors>(a.x + at, a.columns);
  quantize_row<Fp8Scaling::token>(row, a.out, blockIdx.x, a.columns);
}

}  // namespace

void launch_quantize(const QuantizeLaunch& a, void* stream) {
  const GpuGrid flat = {gpu_blocks_for(std::int64_t{a.rows} * a.columns / 8, 256)};
  if (a.out.scaling == Fp8Scaling::tensor) {
    return gpu_launch(quantize_flat_kernel<Fp8Scaling::tensor>, flat, 256, stream, a);
  }
  if (a.out.scaling == Fp8Scaling::group) {
    return gpu_launch(quantize_flat_kernel<Fp8Scaling::group>, flat, 256, stream, a);
  }
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    gpu_launch(quantize_row_kernel<decltype(vectors)::count>, {static_cast<unsigned>(a.rows)}, threads,
               stream, a);
  });
}

}  // namespace orrery::kernels
