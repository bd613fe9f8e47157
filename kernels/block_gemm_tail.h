// The last tiles of a product of which there are fewer than blocks of threads: each is made by several
// blocks, over a part of the features in each. They lay their sums into memory, meet at a counter, and each
// adds up a share of the tile, its own sums first and then the others' in the order of parts, so that the
// result does not depend on who is through first. Small against the tile that every block would wait for
// otherwise: with 136 tiles on 132 multiprocessors nearly half of the time.
#pragma once

#include "kernels/block_gemm.h"
#include "kernels/gpu_runtime.h"

namespace orrery::kernels {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

GPU_DEVICE std::uint32_t load_arrivals(const std::uint32_t* counter) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Of blocks with `Threads` threads that hold sums, Chunks × 32 each. The workspace: two counters a tile,
// zeros before and after; then [tile][part][chunk][four of 32][thread].
template <int Threads, int Chunks>
class TailSums {
 public:
  GPU_DEVICE_MEMBER TailSums(void* workspace, const BlockTail& tail)
      : counters_(static_cast<std::uint32_t*>(workspace)), parts_(tail.parts),
        sums_(reinterpret_cast<float4*>(static_cast<char*>(workspace) + block_gemm_counter_bytes)) {}

  // By all threads that hold sums of part `part` of the `tile`th. Which chunks they hold the tile's sums of
  // then, a bit each; maybe none.
  template <int Parts, int Each>
  GPU_DEVICE_MEMBER unsigned combine(float (&sums)[Parts][Each], int tile, int part) const {
    static_assert(Parts * Each == Chunks * 32);
    const int adders = parts_ < Chunks ? parts_ : Chunks;
    const std::int64_t first = std::int64_t{tile} * parts_;
    GPU_UNROLL for (int c = 0; c < Chunks; c++) {
      if (c % adders == part) continue;
      const float* from = sums[c / (Each / 32)] + c % (Each / 32) * 32;
      GPU_UNROLL for (int i = 0; i < 8; i++) * at(first + part, c, i) =
          float4{from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]};
    }
    __threadfence();
    meet(1, Threads);
    std::uint32_t* arrived = counters_ + 2 * tile;
    if (threadIdx.x == 0) {
      atomicAdd(arrived, 1U);
      while (load_arrivals(arrived) < static_cast<unsigned>(parts_)) {}
    }
    meet(1, Threads);
    unsigned own = 0;
    GPU_UNROLL for (int c = 0; c < Chunks; c++) {
      if (c % adders != part) continue;
      own |= 1U << c;
      float* to = sums[c / (Each / 32)] + c % (Each / 32) * 32;
      for (int of = 0; of < parts_; of++) {
        if (of == part) continue;
        float4 other[8];  // all asked for before the first is added
        GPU_UNROLL for (int i = 0; i < 8; i++) other[i] = __ldcg(at(first + of, c, i));
        GPU_UNROLL for (int i = 0; i < 8; i++) {
          to[4 * i] += other[i].x;
          to[4 * i + 1] += other[i].y;
          to[4 * i + 2] += other[i].z;
          to[4 * i + 3] += other[i].w;
        }
      }
    }
    meet(1, Threads);  // all of this block have passed the counter and read
    if (threadIdx.x == 0 && atomicAdd(arrived + 1, 1U) + 1 == static_cast<unsigned>(parts_)) {
      arrived[0] = 0;
      arrived[1] = 0;
    }
    return own;
  }

 private:
  GPU_DEVICE_MEMBER float4* at(std::int64_t part, int chunk, int four) const {
    return sums_ + ((part * Chunks + chunk) * 8 + four) * Threads + threadIdx.x;
  }
  std::uint32_t* counters_;
  int parts_;
  float4* sums_;
};

#endif

}  // namespace orrery::kernels
