#include "kernels/stream.h"

#include <algorithm>

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 256;
constexpr int pieces = 4;  // loads in flight a thread

// Many small blocks: the hardware hands them out as compute units become free, so that units far from a
// memory stack do not hold up the end. Where there are fewer than pieces to move, each goes round again.
template <StreamKind kind>
__global__ void __launch_bounds__(threads) stream_kernel(StreamLaunch a) {
  const std::int64_t count = a.bytes / 16;
  const std::int64_t stride = std::int64_t{gridDim.x} * threads * pieces;
  std::uint32_t mixed = 0;
  for (std::int64_t first = std::int64_t{blockIdx.x} * threads * pieces + threadIdx.x; first < count;
       first += stride) {
    GpuBytes16 piece[pieces];
    GPU_UNROLL for (int i = 0; i < pieces; ++i) {
      const std::int64_t at = first + i * std::int64_t{threads};
      piece[i] = GpuBytes16{{a.pattern, a.pattern, a.pattern, a.pattern}};
      if (kind == StreamKind::write) continue;
      if (at < count)
        piece[i] = gpu_load<GpuBytes16>(a.source, static_cast<std::size_t>(at));
      else
        piece[i] = GpuBytes16{};
    }
    GPU_UNROLL for (int i = 0; i < pieces; ++i) {
      const std::int64_t at = first + i * std::int64_t{threads};
      if (kind == StreamKind::read) {
        mixed ^= piece[i].word[0] ^ piece[i].word[1] ^ piece[i].word[2] ^ piece[i].word[3];
      } else if (at < count) {
        gpu_store(a.destination, static_cast<std::size_t>(at), piece[i]);
      }
    }
  }
  if constexpr (kind == StreamKind::read) {
    // A use of every word read, or the compiler would leave the reads out.
    GPU_UNROLL for (unsigned mask = GPU_WARP / 2; mask > 0; mask /= 2) mixed ^= gpu_shuffle_xor(mixed, mask);
    GPU_SHARED(std::uint32_t, parts, gpu_most_warps);
    if (gpu_lane() == 0) parts[gpu_warp_index()] = mixed;
    gpu_barrier();
    if (threadIdx.x > 0) return;
    for (unsigned i = 1; i < threads / GPU_WARP; ++i) mixed ^= parts[i];
    a.sums[blockIdx.x] = mixed;
  }
}

}  // namespace

void launch_stream(const StreamLaunch& a, void* stream) {
  const unsigned useful = gpu_blocks_for(a.bytes / 16, threads * pieces);
  const unsigned most = static_cast<unsigned>(a.blocks > 0 ? a.blocks : stream_most_blocks);
  const GpuGrid grid = {std::min(useful, most)};
  auto* kernel = stream_kernel<StreamKind::copy>;
  if (a.kind == StreamKind::read) kernel = stream_kernel<StreamKind::read>;
  if (a.kind == StreamKind::write) kernel = stream_kernel<StreamKind::write>;
  gpu_launch(kernel, grid, threads, stream, a);
}

}  // namespace orrery::kernels
