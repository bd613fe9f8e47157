#include "kernels/peer_gather_columns.h"

#include "kernels/gpu_peer.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 512;

GPU_DEVICE std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

// A rank's vector, by its number among the rank's.
GPU_DEVICE void store_at(const PeerGatherColumnsLaunch& a, unsigned rank, std::size_t vector,
                         const GpuBytes16& value) {
  const std::size_t width = static_cast<unsigned>(a.columns) / 8, row = vector / width;
  gpu_store(a.out, (row * static_cast<unsigned>(a.peers.ranks) + rank) * width + (vector - row * width),
            value);
}

// `chunk`: vectors of a block and step.
template <unsigned most>
__global__ void __launch_bounds__(threads) gather_columns_kernel(PeerGatherColumnsLaunch a, unsigned chunk) {
  const std::size_t vectors =
      std::size_t{static_cast<unsigned>(a.rows)} * (static_cast<unsigned>(a.columns) / 8);
  const unsigned ranks = static_cast<unsigned>(a.peers.ranks), me = static_cast<unsigned>(a.peers.rank);
  PeerExchange<false> exchange(a.peers);
  for (std::size_t begin = std::size_t{blockIdx.x} * chunk; begin < vectors;
       begin += std::size_t{gridDim.x} * chunk) {
    const std::size_t here = least(chunk, vectors - begin);
    exchange.begin();
    for (std::size_t v = threadIdx.x; v < here; v += threads) {
      const GpuBytes16 own = gpu_load<GpuBytes16>(a.in, begin + v);
      peer_push<most>(exchange, a.peers, v, own);
      store_at(a, me, begin + v, own);
    }
    exchange.meet();
    GPU_NO_UNROLL for (unsigned i = 1; i < ranks; ++i) {
      const unsigned from = (me + i) % ranks;
      for (std::size_t v = threadIdx.x; v < here; v += threads)
        store_at(a, from, begin + v, exchange.take(from, v));
    }
  }
  exchange.end();
}

template <unsigned most>
void launch_most(const PeerGatherColumnsLaunch& a, void* stream) {
  const std::int64_t vectors = std::int64_t{a.rows} * (a.columns / 8), largest = a.peers.slot_bytes / 16;
  std::int64_t blocks = gpu_blocks_for(vectors, threads);
  if (blocks > peer_gather_blocks) blocks = peer_gather_blocks;
  if (blocks > a.peers.blocks) blocks = a.peers.blocks;
  std::int64_t chunk = gpu_blocks_for(vectors, blocks);
  if (chunk > largest) chunk = largest;
  gpu_launch(gather_columns_kernel<most>, {static_cast<unsigned>(blocks)}, threads, stream, a,
             static_cast<unsigned>(chunk));
}

}  // namespace

void launch_peer_gather_columns(const PeerGatherColumnsLaunch& a, void* stream) {
  if (a.peers.ranks == 2) return launch_most<2>(a, stream);
  if (a.peers.ranks <= 4) return launch_most<4>(a, stream);
  launch_most<8>(a, stream);
}

}  // namespace orrery::kernels
