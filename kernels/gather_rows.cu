#include "kernels/gather_rows.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

// Threads are dealt over all 16-byte pieces, four to a thread a block apart: four loads in flight, neighbours
// together, and one long row still spreads over several compute units.
constexpr int pieces = 4;

__global__ void __launch_bounds__(256) gather_rows_kernel(GatherRowsLaunch a) {
  const unsigned width = static_cast<unsigned>(a.row_bytes / 16);
  const unsigned rows = static_cast<unsigned>(a.used_rows != nullptr ? *a.used_rows : a.rows);
  const unsigned first = blockIdx.x * blockDim.x * pieces + threadIdx.x;
  GpuBytes16 piece[pieces];
  GPU_UNROLL for (unsigned i = 0; i < pieces; ++i) {
    const auto [row, vector] = gpu_place(first + i * blockDim.x, width);
    piece[i] = GpuBytes16{};
    if (row >= rows) continue;
    const std::int64_t from = a.indices[row] / a.divisor - a.first_index;
    if (from < 0 || from >= a.source_rows) continue;
    piece[i] = gpu_load<GpuBytes16>(a.source, static_cast<std::size_t>(from) * width + vector);
  }
  GPU_UNROLL for (unsigned i = 0; i < pieces; ++i) {
    const unsigned at = first + i * blockDim.x;
    if (at < std::size_t{rows} * width) gpu_store(a.out, at, piece[i]);
  }
}

}  // namespace

void launch_gather_rows(const GatherRowsLaunch& a, void* stream) {
  const std::int64_t work = a.rows * (a.row_bytes / 16);
  gpu_launch(gather_rows_kernel, {gpu_blocks_for(work, 256 * pieces)}, 256, stream, a);
}

}  // namespace orrery::kernels
