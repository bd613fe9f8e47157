// The gate of an MLP over rows in slots of experts: as many blocks as fill the part walk over the rows in
// use, whose number only the device knows.
#include "kernels/grouped_tiles.h"
#include "kernels/row.h"
#include "kernels/silu_gate.h"
#include "kernels/silu_mul.h"

namespace orrery::kernels {

namespace {

using Rows = TileTable<silu_mul_most_experts>;  // rows before each expert: tiles of one row

template <unsigned Threads>
GPU_DEVICE std::int32_t count_rows(Rows& rows, const SiluMulLaunch& a) {
  fill_tile_table<Threads>(rows, ExpertRows(a.expert_rows, a.slots), a.experts, 1, a.columns, a.columns);
  return rows.first[a.experts];
}
GPU_DEVICE std::int64_t used_row(const Rows& rows, const SiluMulLaunch& a, std::int32_t index) {
  return grouped_tile(rows, ExpertRows(a.expert_rows, a.slots), index).first_row;
}

template <Fp8Scaling scaling>
__global__ void __launch_bounds__(256) silu_mul_masked_kernel(SiluMulLaunch a) {
  GPU_SHARED(Rows, rows, 1);
  const std::int32_t used = count_rows<256>(*rows, a);
  const int half = a.columns / 8;
  const unsigned all = static_cast<unsigned>(used) * static_cast<unsigned>(half);
  for (unsigned first = blockIdx.x * blockDim.x; first < all; first += gridDim.x * blockDim.x) {
    const unsigned at = first + threadIdx.x;
    const bool inside = at < all;
    const GpuPlace place = gpu_place(inside ? at : 0, static_cast<unsigned>(half));
    const int vector = static_cast<int>(place.vector);
    const std::int64_t row = used_row(*rows, a, static_cast<std::int32_t>(place.row));
    const GpuFloat8 out = gated(a.gate_up, row, vector, half);
    if constexpr (scaling == Fp8Scaling::none) {
      if (inside) gpu_store(a.out, static_cast<std::size_t>(row * half + vector), gpu_pack8_bf16(out));
    } else {
      const float scale = scaling == Fp8Scaling::tensor ? a.quantized.scales[0] : 0;
      quantize8<scaling>(out, a.quantized, row, vector, a.columns, inside, scale);
    }
  }
}

template <int vectors, unsigned threads>
__global__ void __launch_bounds__(threads) silu_mul_masked_row_kernel(SiluMulLaunch a) {
  GPU_SHARED(Rows, rows, 1);
  const std::int32_t used = count_rows<threads>(*rows, a);
  for (std::int32_t index = static_cast<std::int32_t>(blockIdx.x); index < used;
       index += static_cast<std::int32_t>(gridDim.x)) {
    const std::int64_t row = used_row(*rows, a, index);
    quantize_row<Fp8Scaling::token>(gated_row<Row<vectors>, vectors>(a.gate_up, row, a.columns / 8),
                                    a.quantized, row, a.columns);
  }
}

template <int vectors, unsigned threads>
void launch_rows(const SiluMulLaunch& a, void* stream) {
  const unsigned most = gpu_compute_units() * (2048 / threads), rows = static_cast<unsigned>(a.rows);
  gpu_launch(silu_mul_masked_row_kernel<vectors, threads>, {rows < most ? rows : most}, threads, stream, a);
}

}  // namespace

void launch_silu_mul_masked(const SiluMulLaunch& a, void* stream) {
  const unsigned needed = gpu_blocks_for(std::int64_t{a.rows} * a.columns / 8, 256);
  const GpuGrid flat = {needed < gpu_compute_units() * 8 ? needed : gpu_compute_units() * 8};
  switch (a.quantized.scaling) {
    case Fp8Scaling::none: return gpu_launch(silu_mul_masked_kernel<Fp8Scaling::none>, flat, 256, stream, a);
    case Fp8Scaling::tensor:
      return gpu_launch(silu_mul_masked_kernel<Fp8Scaling::tensor>, flat, 256, stream, a);
    case Fp8Scaling::group:
      return gpu_launch(silu_mul_masked_kernel<Fp8Scaling::group>, flat, 256, stream, a);
    case Fp8Scaling::token: break;
  }
  // Few block sizes: the table of rows is filled by as many threads as the kernel was compiled for.
  if (a.columns <= 2048) return launch_rows<1, 256>(a, stream);
  if (a.columns <= 8192) return launch_rows<2, 512>(a, stream);
  launch_rows<4, 1024>(a, stream);
}

}  // namespace orrery::kernels
