#include "kernels/peer_reduce_norm.h"

#include "kernels/gpu_peer.h"
#include "kernels/row.h"

namespace orrery::kernels {

namespace {

template <int vectors, Fp8Scaling scaling, bool lines>
__global__ void __launch_bounds__(vectors == 1 ? 256 : 1024) peer_reduce_norm_kernel(PeerReduceNormLaunch a, unsigned rows_a_step) {
  PeerExchange<lines> exchange(a.peers);
  const unsigned width = static_cast<unsigned>(a.columns) / 8, rows = static_cast<unsigned>(a.rows);
  for (unsigned begin = blockIdx.x * rows_a_step; begin < rows; begin += gridDim.x * rows_a_step) {
    const unsigned end = begin + rows_a_step < rows ? begin + rows_a_step : rows;
    const std::uint16_t* own = a.part + std::size_t{begin} * static_cast<std::size_t>(a.columns);
    exchange.begin();
    for (std::size_t v = threadIdx.x; v < (end - begin) * width; v += blockDim.x) {
      peer_push<peer_most_ranks>(exchange, a.peers, v, gpu_load<GpuBytes16>(own, v));
    }
    exchange.meet();
    for (unsigned r = begin; r < end; ++r) {
      Row<vectors> row{};
      GPU_UNROLL for (int v = 0; v < vectors; ++v) {
        const unsigned at = threadIdx.x + static_cast<unsigned>(v) * blockDim.x;
        if (at >= width) continue;
        const std::size_t place = (r - begin) * width + at;
        row.part[v] =
            peer_sum<peer_most_ranks>(exchange, a.peers, gpu_load<GpuBytes16>(own, place), place);
      }
      const std::size_t first = std::size_t{r} * static_cast<std::size_t>(a.columns);
      add_residual(row, a.residual + first, a.residual_out + first, a.columns);
      normalise_row(row, a.weight, a.columns, a.epsilon);
      if constexpr (scaling == Fp8Scaling::none) {
        store_row(a.out + first, row, a.columns);
      } else {
        quantize_row<scaling>(row, a.quantized, r, a.columns);
      }
    }
  }
  exchange.end();
}

template <int vectors, bool lines>
void launch_scaled(const PeerReduceNormLaunch& a, unsigned threads, void* stream) {
  auto* kernel = peer_reduce_norm_kernel<vectors, Fp8Scaling::none, lines>;
  switch (a.quantized.scaling) {
    case Fp8Scaling::none: break;
    case Fp8Scaling::tensor: kernel = peer_reduce_norm_kernel<vectors, Fp8Scaling::tensor, lines>; break;
    case Fp8Scaling::token: kernel = peer_reduce_norm_kernel<vectors, Fp8Scaling::token, lines>; break;
    case Fp8Scaling::group: kernel = peer_reduce_norm_kernel<vectors, Fp8Scaling::group, lines>; break;
  }
  // As many rows a step as leave no block idle and fit: a step costs a trip, whatever it carries.
  const std::int64_t row_bytes = std::int64_t{2} * a.columns, blocks = a.peers.blocks;
  const std::int64_t fit = lines ? a.peers.line_bytes / (2 * row_bytes) : a.peers.slot_bytes / row_bytes;
  std::int64_t step = gpu_blocks_for(a.rows, blocks);
  if (step > fit) step = fit;
  const unsigned needed = gpu_blocks_for(a.rows, step);
  gpu_launch(kernel, {needed < blocks ? needed : static_cast<unsigned>(blocks)}, threads, stream, a,
             static_cast<unsigned>(step));
}

template <int vectors>
void launch_as(const PeerReduceNormLaunch& a, unsigned threads, void* stream) {
  if (a.lines) return launch_scaled<vectors, true>(a, threads, stream);
  launch_scaled<vectors, false>(a, threads, stream);
}

}  // namespace

void launch_peer_reduce_norm(const PeerReduceNormLaunch& a, void* stream) {
  const int vectors = a.columns / 8;
  if (vectors <= 256) return launch_as<1>(a, gpu_blocks_for(vectors, 64) * 64, stream);
  launch_as<2>(a, gpu_blocks_for(vectors, 128) * 64, stream);
}

}  // namespace orrery::kernels
