#include "kernels/silu_mul.h"

#include "kernels/row.h"
#include "kernels/silu_gate.h"

namespace orrery::kernels {

namespace {

// Everything but a scale per token: no vector needs to know of another beyond its group, so threads are dealt
// over all rows and a single row still fills several compute units.
template <Fp8Scaling scaling>
__global__ void __launch_bounds__(256) silu_mul_flat_kernel(SiluMulLaunch a) {
  const int half = a.columns / 8;
  const unsigned at = gpu_thread_index();
  const GpuPlace place = gpu_place(at, static_cast<unsigned>(half));
  const std::int64_t row = place.row;
  const int vector = static_cast<int>(place.vector);
  const bool inside = row < (a.used_rows != nullptr ? *a.used_rows : a.rows);
  const GpuFloat8 out = inside ? gated(a.gate_up, row, vector, half) : GpuFloat8{};
  if constexpr (scaling == Fp8Scaling::none) {
    if (inside) gpu_store(a.out, at, gpu_pack8_bf16(out));
  } else {
    const float scale = scaling == Fp8Scaling::tensor ? a.quantized.scales[0] : 0;
    quantize8<scaling>(out, a.quantized, row, vector, a.columns, inside, scale);
  }
}

template <int vectors>
__global__ void __launch_bounds__(1024) silu_mul_row_kernel(SiluMulLaunch a) {
  const auto row = gated_row<Row<vectors>, vectors>(a.gate_up, blockIdx.x, a.columns / 8);
  quantize_row<Fp8Scaling::token>(row, a.quantized, blockIdx.x, a.columns);
}

}  // namespace

void launch_silu_mul(const SiluMulLaunch& a, void* stream) {
  if (a.expert_rows != nullptr) return launch_silu_mul_masked(a, stream);
  const GpuGrid flat = {gpu_blocks_for(std::int64_t{a.rows} * a.columns / 8, 256)};
  switch (a.quantized.scaling) {
    case Fp8Scaling::none: return gpu_launch(silu_mul_flat_kernel<Fp8Scaling::none>, flat, 256, stream, a);
    case Fp8Scaling::tensor:
      return gpu_launch(silu_mul_flat_kernel<Fp8Scaling::tensor>, flat, 256, stream, a);
    case Fp8Scaling::group: return gpu_launch(silu_mul_flat_kernel<Fp8Scaling::group>, flat, 256, stream, a);
    case Fp8Scaling::token: break;
  }
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    gpu_launch(silu_mul_row_kernel<decltype(vectors)::count>, {static_cast<unsigned>(a.rows)}, threads,
               stream, a);
  });
}

}  // namespace orrery::kernels
