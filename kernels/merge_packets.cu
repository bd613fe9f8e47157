#include "kernels/merge_packets.h"

#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

namespace {

constexpr unsigned threads = 256, ahead = 4;  // 16-byte loads of a lane under way at once

// A warp takes a packet: packets are short, and no warp waits for another.
__global__ void __launch_bounds__(threads) merge_packets_kernel(MergePacketsLaunch a) {
  const unsigned lane = gpu_lane();
  const unsigned index = blockIdx.x * (blockDim.x / GPU_WARP) + gpu_warp_index();
  if (index >= static_cast<unsigned>(a.count)) return;
  const Packet packet = a.packets[index];
  const auto vectors = static_cast<std::size_t>(packet.bytes / 16);
  std::size_t at = lane;
  for (; at + (ahead - 1) * GPU_WARP < vectors; at += ahead * GPU_WARP) {
    GpuBytes16 part[ahead];
    GPU_UNROLL for (unsigned i = 0; i < ahead; ++i) part[i] =
        gpu_load<GpuBytes16>(packet.from, at + i * GPU_WARP);
    GPU_UNROLL for (unsigned i = 0; i < ahead; ++i) gpu_store(packet.to, at + i * GPU_WARP, part[i]);
  }
  for (; at < vectors; at += GPU_WARP) gpu_store(packet.to, at, gpu_load<GpuBytes16>(packet.from, at));
  const std::size_t byte = 16 * vectors + lane;  // fewer than 16 are left
  if (byte < static_cast<std::size_t>(packet.bytes)) {
    gpu_store(packet.to, byte, gpu_load<std::uint8_t>(packet.from, byte));
  }
}

}  // namespace

void launch_merge_packets(const MergePacketsLaunch& a, void* stream) {
  gpu_launch(merge_packets_kernel, {gpu_blocks_for(a.count, threads / GPU_WARP)}, threads, stream, a);
}

}  // namespace orrery::kernels
