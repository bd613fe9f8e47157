// The gate of an MLP over rows in slots of experts. Only the device knows how many are in use: as many blocks
// as fill the part are set aside for every expert, and go over its rows (SGLang,
// srt/layers/moe/ep_moe/kernels.py, silu_and_mul_masked_post_quant_fwd, does the same with 32 or 64).
#include "kernels/row.h"
#include "kernels/silu_gate.h"
#include "kernels/silu_mul.h"

namespace orrery::kernels {

namespace {

// blockIdx: x of an expert's blocks, y the expert.
template <Fp8Scaling scaling>
__global__ void __launch_bounds__(256) silu_mul_masked_kernel(SiluMulLaunch a) {
  const unsigned half = static_cast<unsigned>(a.columns / 8);
  const unsigned all = static_cast<unsigned>(a.expert_rows[blockIdx.y]) * half;
  const std::int64_t first_row = std::int64_t{a.slots} * blockIdx.y;
  for (unsigned first = blockIdx.x * blockDim.x; first < all; first += gridDim.x * blockDim.x) {
    const unsigned at = first + threadIdx.x;
    const bool inside = at < all;
    const GpuPlace place = gpu_place(inside ? at : 0, half);
    const int vector = static_cast<int>(place.vector);
    const std::int64_t row = first_row + place.row;
    const GpuFloat8 out = gated(a.gate_up, row, vector, static_cast<int>(half));
    if constexpr (scaling == Fp8Scaling::none) {
      if (inside) gpu_store(a.out, static_cast<std::size_t>(row * half + vector), gpu_pack8_bf16(out));
    } else {
      const float scale = scaling == Fp8Scaling::tensor ? a.quantized.scales[0] : 0;
      quantize8<scaling>(out, a.quantized, row, vector, a.columns, inside, scale);
    }
  }
}

template <int vectors>
__global__ void __launch_bounds__(1024) silu_mul_masked_row_kernel(SiluMulLaunch a) {
  const unsigned rows = static_cast<unsigned>(a.expert_rows[blockIdx.y]);
  for (unsigned i = blockIdx.x; i < rows; i += gridDim.x) {
    const std::int64_t row = std::int64_t{a.slots} * blockIdx.y + i;
    quantize_row<Fp8Scaling::token>(gated_row<Row<vectors>, vectors>(a.gate_up, row, a.columns / 8),
                                    a.quantized, row, a.columns);
  }
}

// Blocks of an expert: for all its slots, but no more than the part holds of 64 for each.
GpuGrid blocks_of(const SiluMulLaunch& a, std::int64_t for_slots) {
  const std::int64_t experts = a.experts > 0 ? a.experts : 1, full = gpu_compute_units() * 8;
  const std::int64_t most = full / experts < 64 ? 64 : full / experts;
  return {static_cast<unsigned>(for_slots < most ? for_slots : most), static_cast<unsigned>(a.experts)};
}

}  // namespace

void launch_silu_mul_masked(const SiluMulLaunch& a, void* stream) {
  const GpuGrid flat = blocks_of(a, (std::int64_t{a.slots} * a.columns / 8 + 255) / 256);
  switch (a.quantized.scaling) {
    case Fp8Scaling::none: return gpu_launch(silu_mul_masked_kernel<Fp8Scaling::none>, flat, 256, stream, a);
    case Fp8Scaling::tensor:
      return gpu_launch(silu_mul_masked_kernel<Fp8Scaling::tensor>, flat, 256, stream, a);
    case Fp8Scaling::group:
      return gpu_launch(silu_mul_masked_kernel<Fp8Scaling::group>, flat, 256, stream, a);
    case Fp8Scaling::token: break;
  }
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    gpu_launch(silu_mul_masked_row_kernel<decltype(vectors)::count>, blocks_of(a, a.slots), threads, stream,
               a);
  });
}

}  // namespace orrery::kernels
