#include "kernels/peer_reduce_norm.h"

#include "kernels/gpu_peer.h"
#include "kernels/row.h"

namespace orrery::kernels {

namespace {

// What this rank itself has of a row: read before its peers' parts are waited for.
template <int vectors>
struct OwnRow {
  GpuBytes16 part[vectors], residual[vectors];
};
template <int vectors>
GPU_DEVICE void load_own(OwnRow<vectors>& own, const PeerReduceNormLaunch& a, std::size_t first) {
  GPU_UNROLL for (int v = 0; v < vectors; ++v) {
    const unsigned at = threadIdx.x + static_cast<unsigned>(v) * blockDim.x;
    if (at >= static_cast<unsigned>(a.columns) / 8) continue;
    own.part[v] = gpu_load<GpuBytes16>(a.part + first, at);
    own.residual[v] = gpu_load<GpuBytes16>(a.residual + first, at);
  }
}

template <int vectors, Fp8Scaling scaling, bool lines>
__global__ void __launch_bounds__(512) peer_reduce_norm_kernel(PeerReduceNormLaunch a, unsigned rows_a_step) {
  PeerExchange<lines> exchange(a.peers);
  const unsigned width = static_cast<unsigned>(a.columns) / 8, rows = static_cast<unsigned>(a.rows);
  const auto columns = static_cast<std::size_t>(a.columns);
  for (unsigned begin = blockIdx.x * rows_a_step; begin < rows; begin += gridDim.x * rows_a_step) {
    const unsigned end = begin + rows_a_step < rows ? begin + rows_a_step : rows;
    const std::uint16_t* parts = a.part + begin * columns;
    exchange.begin();
    for (unsigned v = threadIdx.x; v < (end - begin) * width; v += blockDim.x) {
      peer_push<peer_most_ranks>(exchange, a.peers, v, gpu_load<GpuBytes16>(parts, v));
    }
    OwnRow<vectors> own{};
    load_own(own, a, begin * columns);
    exchange.meet();
    for (unsigned r = begin; r < end; ++r) {
      const std::size_t first = r * columns;
      Row<vectors> row{};
      GPU_UNROLL for (int v = 0; v < vectors; ++v) {
        const unsigned at = threadIdx.x + static_cast<unsigned>(v) * blockDim.x;
        if (at < width) {
          row.part[v] = peer_sum<peer_most_ranks>(exchange, a.peers, own.part[v], (r - begin) * width + at);
          add_vector(row.part[v], own.residual[v], a.residual_out + first, static_cast<int>(at));
        }
      }
      if (r + 1 < end) load_own(own, a, first + columns);
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
  const std::int64_t row_bytes = std::int64_t{2} * a.columns,
                     resident = gpu_compute_units() * (1024 / threads);
  const std::int64_t blocks = resident < a.peers.blocks ? resident : a.peers.blocks;
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
