#include "kernels/rms_norm.h"

#include "kernels/row.h"

namespace orrery::kernels {

namespace {

template <int vectors, bool add, Fp8Scaling scaling>
__global__ void __launch_bounds__(1024) rms_norm_kernel(RmsNormLaunch a) {
  const std::size_t at = std::size_t{blockIdx.x} * static_cast<std::size_t>(a.columns);
  Row<vectors> row = load_row<vectors>(a.x + at, a.columns);
  if constexpr (add) add_residual(row, a.residual + at, a.residual_out + at, a.columns);
  normalise_row(row, a.weight, a.columns, a.epsilon);
  if constexpr (scaling == Fp8Scaling::none) {
    store_row(a.out + at, row, a.columns);
  } else {
    quantize_row<scaling>(row, a.quantized, blockIdx.x, a.columns);
  }
}

template <int vectors, Fp8Scaling scaling>
void launch_scaled(const RmsNormLaunch& a, unsigned threads, void* stream) {
  auto* kernel = a.residual != nullptr ? rms_norm_kernel<vectors, true, scaling>
                                       : rms_norm_kernel<vectors, false, scaling>;
  gpu_launch(kernel, {static_cast<unsigned>(a.rows)}, threads, stream, a);
}

}  // namespace

void launch_rms_norm(const RmsNormLaunch& a, void* stream) {
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    constexpr int count = decltype(vectors)::count;
    switch (a.quantized.scaling) {
      case Fp8Scaling::none: return launch_scaled<count, Fp8Scaling::none>(a, threads, stream);
      case Fp8Scaling::tensor: return launch_scaled<count, Fp8Scaling::tensor>(a, threads, stream);
      case Fp8Scaling::token: return launch_scaled<count, Fp8Scaling::token>(a, threads, stream);
      case Fp8Scaling::group: return launch_scaled<count, Fp8Scaling::group>(a, threads, stream);
    }
  });
}

}  // namespace orrery::kernels
