#include "kernels/rms_norm.h"

#include "kernels/row.h"

namespace orrery::kernels {

namespace {

template <int vectors>
__global__ void __launch_bounds__(1024) rms_norm_kernel(RmsNormLaunch a) {
  const std::size_t at = std::size_t{blockIdx.x} * static_cast<std::size_t>(a.columns);
  Row<vectors> row = load_row<vectors>(a.x + at, a.columns);
  normalise_row(row, a.weight, a.columns, a.epsilon);
  store_row(a.out + at, row, a.columns);
}

}  // namespace

void launch_rms_norm(const RmsNormLaunch& a, void* stream) {
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    gpu_launch(rms_norm_kernel<decltype(vectors)::count>, {static_cast<unsigned>(a.rows)}, threads, stream,
               a);
  });
}

}  // namespace orrery::kernels
