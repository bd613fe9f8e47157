// Two blocks that share copies (a thread block cluster of sm_90a): a box goes to both at once, and each tells
// the other when a stage has been read.
#pragma once

#include "kernels/wgmma.h"

namespace orrery::kernels {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

GPU_DEVICE unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// All threads of all blocks of the cluster meet.
GPU_DEVICE void cluster_meet() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// Like copy_box; lands at the same place in every block of `blocks` (a bit each) and counts at its barrier.
GPU_DEVICE void copy_box_to_all(SharedAddress to, const CUtensorMap* map, int x, int y, SharedAddress barrier,
                                std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks)
      : "memory");
}
// The same, of a map of three dimensions.
GPU_DEVICE void copy_box_to_all(SharedAddress to, const CUtensorMap* map, int x, int y, int z,
                                SharedAddress barrier, std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(blocks)
      : "memory");
}
// At the barrier that lies at the same place in the block `rank`.
GPU_DEVICE void barrier_arrive_at(SharedAddress barrier, unsigned rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

#endif

}  // namespace orrery::kernels
