// Sums of one tile by the blocks of a cluster, each over its share of the features in (sm_90a): the others
// lay theirs into the first block's shared memory, which adds them in the order of ranks, so that the result
// does not depend on who is through first.
#pragma once

#include "kernels/cluster.h"

namespace orrery::kernels {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Address of `there` in the shared memory of block `rank`.
GPU_DEVICE SharedAddress address_at(SharedAddress there, unsigned rank) {
  SharedAddress address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(there), "r"(rank));
  return address;
}
GPU_DEVICE void store_at(SharedAddress address, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
GPU_DEVICE float load_sum(SharedAddress address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
// barrier_wait and an arrival that order what blocks of the cluster wrote.
GPU_DEVICE void cluster_barrier_wait(SharedAddress barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 over, [%0], %1;\n"
      "@over bra done;\n"
      "bra again;\n"
      "done:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
GPU_DEVICE void cluster_barrier_arrive(SharedAddress address) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(address) : "memory");
}

// In every block: sums of up to splits − 1 others, [split][sum][thread], behind two barriers of 8 bytes.
template <int Threads, int Count>
class SplitSums {
 public:
  static constexpr int bytes_each = Count * Threads * 4;

  GPU_DEVICE_MEMBER SplitSums(SharedAddress at, int splits) : at_(at), splits_(splits) {}
  GPU_DEVICE_MEMBER void prepare() const {
    barrier_init(arrived(), static_cast<unsigned>(splits_ - 1) * Threads);
    barrier_init(room(), Threads);
    barrier_init_fence();
  }
  // By all threads that hold sums. False in the blocks that only gave theirs away.
  GPU_DEVICE_MEMBER bool combine(float (&sums)[Count]) {
    const unsigned rank = cluster_rank(), thread = threadIdx.x;
    if (rank > 0) {
      cluster_barrier_wait(room(), parity_ ^ 1U);  // the first time there is room
      const SharedAddress to = address_at(place(rank - 1, thread), 0);
      GPU_UNROLL for (unsigned i = 0; i < Count; i++) store_at(to + i * Threads * 4, sums[i]);
      cluster_barrier_arrive(address_at(arrived(), 0));
    } else {
      cluster_barrier_wait(arrived(), parity_);
      for (unsigned other = 1; other < static_cast<unsigned>(splits_); other++) {
        const SharedAddress from = place(other - 1, thread);
        GPU_UNROLL for (unsigned i = 0; i < Count; i++) sums[i] += load_sum(from + i * Threads * 4);
        cluster_barrier_arrive(address_at(room(), other));
      }
    }
    parity_ ^= 1U;
    return rank == 0;
  }

 private:
  GPU_DEVICE_MEMBER SharedAddress arrived() const { return at_; }
  GPU_DEVICE_MEMBER SharedAddress room() const { return at_ + 8; }
  GPU_DEVICE_MEMBER SharedAddress place(unsigned split, unsigned thread) const {
    return at_ + 16 + split * bytes_each + thread * 4;
  }
  SharedAddress at_;
  int splits_;
  unsigned parity_ = 0;
};

#endif

}  // namespace orrery::kernels
