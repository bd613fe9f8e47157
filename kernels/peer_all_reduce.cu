#include "kernels/peer_all_reduce.h"

#include "kernels/gpu_peer.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 512;

// Vectors of eight; the last may be short.
GPU_DEVICE GpuBytes16 load_vector(const PeerAllReduceLaunch& a, std::size_t vector) {
  const auto count = static_cast<std::size_t>(a.count);
  if (8 * vector + 8 <= count) return gpu_load<GpuBytes16>(a.in, vector);
  GpuBytes16 part{};
  GPU_UNROLL for (unsigned i = 0; i < 8; ++i) {
    if (8 * vector + i < count) part.word[i / 2] |= std::uint32_t{a.in[8 * vector + i]} << (16 * (i % 2));
  }
  return part;
}
GPU_DEVICE void store_vector(const PeerAllReduceLaunch& a, std::size_t vector, const GpuBytes16& value) {
  const auto count = static_cast<std::size_t>(a.count);
  if (8 * vector + 8 <= count) return gpu_store(a.out, vector, value);
  GPU_UNROLL for (unsigned i = 0; i < 8; ++i) {
    if (8 * vector + i < count) {
      a.out[8 * vector + i] = static_cast<std::uint16_t>(value.word[i / 2] >> (16 * (i % 2)));
    }
  }
}

GPU_DEVICE std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

// `chunk`: vectors of a block and step.
template <unsigned most, bool lines>
__global__ void __launch_bounds__(threads) one_shot_kernel(PeerAllReduceLaunch a, unsigned chunk) {
  const std::size_t vectors = (static_cast<std::size_t>(a.count) + 7) / 8;
  PeerExchange<lines> exchange(a.peers);
  for (std::size_t begin = std::size_t{blockIdx.x} * chunk; begin < vectors;
       begin += std::size_t{gridDim.x} * chunk) {
    const std::size_t here = least(chunk, vectors - begin);
    exchange.begin();
    for (std::size_t v = threadIdx.x; v < here; v += threads) {
      peer_push<most>(exchange, a.peers, v, load_vector(a, begin + v));
    }
    exchange.meet();
    for (std::size_t v = threadIdx.x; v < here; v += threads) {
      const GpuBytes16 own = load_vector(a, begin + v);
      store_vector(a, begin + v, gpu_pack8_bf16(peer_sum<most>(exchange, a.peers, own, v)));
    }
    // Before this block sends its next step, which lets peers write this half again, all its threads have
    // read it; a flag's meet() begins with that barrier, and a launch's end is one.
    if (lines && begin + std::size_t{gridDim.x} * chunk < vectors) gpu_barrier();
  }
  exchange.end();
}

// A step of a block covers `chunk` vectors of each rank's part; part j is rank j's to add.
template <unsigned most>
__global__ void __launch_bounds__(threads) two_shot_kernel(PeerAllReduceLaunch a, unsigned chunk) {
  const std::size_t vectors = (static_cast<std::size_t>(a.count) + 7) / 8;
  const unsigned ranks = static_cast<unsigned>(a.peers.ranks), me = static_cast<unsigned>(a.peers.rank);
  PeerExchange<false> exchange(a.peers);
  for (std::size_t begin = std::size_t{blockIdx.x} * chunk * ranks; begin < vectors;
       begin += std::size_t{gridDim.x} * chunk * ranks) {
    const auto each = [&](unsigned rank, auto&& body) {
      const std::size_t part = begin + std::size_t{rank} * chunk;
      const std::size_t here = part < vectors ? least(chunk, vectors - part) : 0;
      for (std::size_t v = threadIdx.x; v < here; v += threads) body(part + v, v);
    };
    exchange.begin();
    for (unsigned i = 1; i < ranks; ++i) {  // every rank begins with another peer
      const unsigned to = (me + i) % ranks;
      each(to, [&](std::size_t at, std::size_t v) { exchange.push(to, v, load_vector(a, at)); });
    }
    exchange.meet();
    PeerExchange<false> got = exchange;
    exchange.begin();
    each(me, [&](std::size_t at, std::size_t v) {
      const GpuBytes16 sum = gpu_pack8_bf16(peer_sum<most>(got, a.peers, load_vector(a, at), v));
      peer_push<most>(exchange, a.peers, v, sum);
      store_vector(a, at, sum);
    });
    exchange.meet();
    for (unsigned i = 1; i < ranks; ++i) {
      const unsigned from = (me + i) % ranks;
      each(from, [&](std::size_t at, std::size_t v) { store_vector(a, at, exchange.take(from, v)); });
    }
  }
  exchange.end();
}

template <unsigned most>
void launch_most(const PeerAllReduceLaunch& a, void* stream) {
  const bool lines = a.form == PeerForm::one_shot_lines, two = a.form == PeerForm::two_shot;
  const std::int64_t vectors = (a.count + 7) / 8, parts = two ? a.peers.ranks : 1;
  const std::int64_t largest = lines ? a.peers.line_bytes / 32 : a.peers.slot_bytes / 16;
  std::int64_t blocks = a.blocks > 0 ? a.blocks : gpu_blocks_for(vectors, parts * threads);
  if (blocks > peer_all_reduce_blocks) blocks = peer_all_reduce_blocks;
  if (blocks > a.peers.blocks) blocks = a.peers.blocks;
  std::int64_t chunk = gpu_blocks_for(vectors, blocks * parts);
  if (chunk > largest) chunk = largest;
  auto* kernel = two     ? two_shot_kernel<most>
                 : lines ? one_shot_kernel<most, true>
                         : one_shot_kernel<most, false>;
  gpu_launch(kernel, {static_cast<unsigned>(blocks)}, threads, stream, a, static_cast<unsigned>(chunk));
}

}  // namespace

void launch_peer_all_reduce(const PeerAllReduceLaunch& a, void* stream) {
  if (a.peers.ranks == 2) return launch_most<2>(a, stream);
  if (a.peers.ranks <= 4) return launch_most<4>(a, stream);
  launch_most<8>(a, stream);
}

}  // namespace orrery::kernels
