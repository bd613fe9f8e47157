#include "kernels/kv_transfer.h"

#include "kernels/gpu_peer.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 512, ahead = 4;

// A warp takes `ahead` vectors a lane of a block at a time, in order of layer, block and place.
__global__ void __launch_bounds__(threads) kv_transfer_kernel(KvTransferLaunch a) {
  const auto vectors = static_cast<unsigned>(a.block_bytes / 16), blocks = static_cast<unsigned>(a.blocks);
  constexpr unsigned piece = ahead * GPU_WARP;
  const unsigned pieces = (vectors + piece - 1) / piece, lane = gpu_lane();
  const unsigned all = static_cast<unsigned>(a.layers) * blocks * pieces;
  const unsigned warps = gridDim.x * (threads / GPU_WARP);
  for (unsigned i = blockIdx.x * (threads / GPU_WARP) + gpu_warp_index(); i < all; i += warps) {
    const auto [row, place] = gpu_place(i, pieces);
    const auto [layer, block] = gpu_place(row, blocks);
    const KvPools pools = a.pools[layer];
    const auto* from = static_cast<const unsigned char*>(pools.from) + a.from_blocks[block] * a.block_bytes;
    auto* to = static_cast<unsigned char*>(pools.to) + a.to_blocks[block] * a.block_bytes;
    const unsigned v = place * piece + lane;
    GpuBytes16 part[ahead];
    GPU_UNROLL for (unsigned n = 0; n < ahead; ++n) {
      if (v + n * GPU_WARP < vectors) part[n] = gpu_load<GpuBytes16>(from, v + n * GPU_WARP);
    }
    GPU_UNROLL for (unsigned n = 0; n < ahead; ++n) {
      if (v + n * GPU_WARP < vectors) gpu_store(to, v + n * GPU_WARP, part[n]);
    }
  }
  if (!gpu_last_block(a.words) || threadIdx.x != 0) return;
  const std::uint32_t count = a.words[1] + 1;
  a.words[1] = count;
  gpu_store_release(a.arrived, count);
}

__global__ void __launch_bounds__(64) kv_wait_kernel(KvWaitLaunch a) {
  if (threadIdx.x != 0) return;
  const std::uint32_t next = *a.seen + 1;
  gpu_await(a.arrived, next);
  *a.seen = next;
}

}  // namespace

void launch_kv_transfer(const KvTransferLaunch& a, void* stream) {
  const std::int64_t work = std::int64_t{a.layers} * a.blocks * a.block_bytes;
  constexpr std::int64_t of_block = std::int64_t{threads} * ahead * 16;
  unsigned blocks = gpu_blocks_for(work, of_block);
  const unsigned most = a.thread_blocks > 0 ? static_cast<unsigned>(a.thread_blocks) : gpu_compute_units();
  if (blocks > most) blocks = most;
  gpu_launch(kv_transfer_kernel, {blocks > 0 ? blocks : 1}, threads, stream, a);
}
void launch_kv_wait(const KvWaitLaunch& a, void* stream) { gpu_launch(kv_wait_kernel, {1}, 64, stream, a); }

}  // namespace orrery::kernels
