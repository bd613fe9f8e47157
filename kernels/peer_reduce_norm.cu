#include "kernels/peer_reduce_norm.h"

#include "kernels/gpu_peer.h"
#include "kernels/row.h"

namespace orrery::kernels {

namespace {

template <int vectors, Fp8Scaling scaling, bool lines>
__global__ void __launch_bounds__(1024) peer_reduce_norm_kernel(PeerReduceNormLaunch a) {
  PeerExchange<lines> exchange(a.peers);
  const int width = a.columns / 8;
  for (unsigned r = blockIdx.x; r < static_cast<unsigned>(a.rows); r += gridDim.x) {
    const std::size_t begin = std::size_t{r} * static_cast<std::size_t>(a.columns);
    GpuBytes16 own[vectors] = {};
    exchange.begin();
    GPU_UNROLL for (int v = 0; v < vectors; ++v) {
      const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
      if (at >= width) continue;
      own[v] = gpu_load<GpuBytes16>(a.part + begin, static_cast<std::size_t>(at));
      peer_push<peer_most_ranks>(exchange, a.peers, static_cast<std::size_t>(at), own[v]);
    }
    exchange.meet();
    Row<vectors> row{};
    GPU_UNROLL for (int v = 0; v < vectors; ++v) {
      const int at = static_cast<int>(threadIdx.x + v * blockDim.x);
      if (at >= width) continue;
      row.part[v] = peer_sum<peer_most_ranks>(exchange, a.peers, own[v], static_cast<std::size_t>(at));
    }
    add_residual(row, a.residual + begin, a.residual_out + begin, a.columns);
    normalise_row(row, a.weight, a.columns, a.epsilon);
    if constexpr (scaling == Fp8Scaling::none) {
      store_row(a.out + begin, row, a.columns);
    } else {
      quantize_row<scaling>(row, a.quantized, r, a.columns);
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
  const auto blocks = static_cast<unsigned>(a.rows < a.peers.blocks ? a.rows : a.peers.blocks);
  gpu_launch(kernel, {blocks}, threads, stream, a);
}

}  // namespace

void launch_peer_reduce_norm(const PeerReduceNormLaunch& a, void* stream) {
  for_row(a.columns, [&](auto vectors, unsigned threads) {
    constexpr int count = decltype(vectors)::count;
    if (a.lines) return launch_scaled<count, true>(a, threads, stream);
    launch_scaled<count, false>(a, threads, stream);
  });
}

}  // namespace orrery::kernels
