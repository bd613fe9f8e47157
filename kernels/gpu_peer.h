// What kernels that talk to other GPUs are written against: words and lines at system scope, and a block's
// exchange over PeerMemory. Include it from .cu files only.
//
// NVIDIA: ld.acquire.sys, st.release.sys and 64-bit relaxed accesses of PTX's memory model; a bar.sync before
// a release and after an acquire makes them count for the whole block. AMD: the same scopes of HIP's.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/peer_memory.h"
#if defined(ORRERY_SIMULATED_WARP)
#include <thread>

#include "base/check.h"
#endif

namespace orrery::kernels {

// 16 bytes whose halves are each written and read at once.
struct alignas(16) GpuLine {
  std::uint64_t half[2];
};

#if defined(ORRERY_SIMULATED_WARP)
// A rank is an OS thread here.
inline void gpu_store_release(std::uint32_t* to, std::uint32_t value) {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}
inline std::uint32_t gpu_load_acquire(const std::uint32_t* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
inline void gpu_store_release(std::uint64_t* to, std::uint64_t value) {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}
inline std::uint64_t gpu_load_acquire(const std::uint64_t* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
inline void gpu_store_line(GpuLine* to, const GpuLine& line) {
  for (int i = 0; i < 2; ++i) __atomic_store_n(&to->half[i], line.half[i], __ATOMIC_RELAXED);
}
inline GpuLine gpu_load_line(const GpuLine* from) {
  return {
      {__atomic_load_n(&from->half[0], __ATOMIC_RELAXED), __atomic_load_n(&from->half[1], __ATOMIC_RELAXED)}};
}
inline void gpu_fence_system() {}  // all blocks of a rank run on one thread
inline bool gpu_seldom() {
  static thread_local unsigned times = 0;
  return ++times % 256 == 0;
}

// A loop that waits for another rank: GpuSpin spin; while (!there) spin.again();
class GpuSpin {
 public:
  void again() {
    ORRERY_CHECK(++times_ < 1U << 24, "a simulated rank waits for one that does not come");
    std::this_thread::yield();
  }

 private:
  unsigned times_ = 0;
};

#elif defined(__HIP__)
template <class T>
GPU_DEVICE void gpu_store_release(T* to, T value) {
  __hip_atomic_store(to, value, __ATOMIC_RELEASE, __HIP_MEMORY_SCOPE_SYSTEM);
}
template <class T>
GPU_DEVICE T gpu_load_acquire(const T* from) {
  return __hip_atomic_load(from, __ATOMIC_ACQUIRE, __HIP_MEMORY_SCOPE_SYSTEM);
}
GPU_DEVICE void gpu_store_line(GpuLine* to, const GpuLine& line) {
  GPU_UNROLL for (int i = 0; i < 2; ++i) {
    __hip_atomic_store(&to->half[i], line.half[i], __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
  }
}
GPU_DEVICE GpuLine gpu_load_line(const GpuLine* from) {
  GpuLine line;
  GPU_UNROLL for (int i = 0; i < 2; ++i) {
    line.half[i] = __hip_atomic_load(&from->half[i], __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_SYSTEM);
  }
  return line;
}
GPU_DEVICE void gpu_fence_system() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, ""); }
struct GpuSpin {
  GPU_DEVICE_MEMBER void again() { __builtin_amdgcn_s_sleep(1); }
};

#else
GPU_DEVICE void gpu_store_release(std::uint32_t* to, std::uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}
GPU_DEVICE std::uint32_t gpu_load_acquire(const std::uint32_t* from) {
  std::uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
GPU_DEVICE void gpu_store_release(std::uint64_t* to, std::uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
GPU_DEVICE std::uint64_t gpu_load_acquire(const std::uint64_t* from) {
  std::uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
GPU_DEVICE void gpu_store_line(GpuLine* to, const GpuLine& line) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(line.half[0]), "l"(line.half[1])
               : "memory");
}
GPU_DEVICE GpuLine gpu_load_line(const GpuLine* from) {
  GpuLine line;
  asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];"
               : "=l"(line.half[0]), "=l"(line.half[1])
               : "l"(from)
               : "memory");
  return line;
}
GPU_DEVICE void gpu_fence_system() { __threadfence_system(); }
GPU_DEVICE bool gpu_seldom() {
  std::uint32_t clock;
  asm volatile("mov.u32 %0, %%clock;" : "=r"(clock));
  return (clock & 0x3FFF00U) == 0;
}
struct GpuSpin {
  GPU_DEVICE_MEMBER void again() {}
};
#endif

// Whether the group has been given up (PeerMemory::given_up): its word is across the host's bus, so it is
// looked at seldom, by the clock: a count would take registers that polling loops do not have. All multi-
// processors have the same clock, so all blocks look at once; every 9 us that made a sum of 512 KiB ten times
// as long on two H200, so it is every 2 ms.
// On AMD, where no engine of ours has ranks, not at all: the address would spill scalar registers.
GPU_DEVICE bool gpu_given_up([[maybe_unused]] const std::uint32_t* word) {
#if defined(__HIP__)
  return false;
#else
  return gpu_seldom() && word != nullptr && gpu_load_acquire(word) != 0;
#endif
}

// Until what counts upwards at `from` has come to `epoch`, or the group is given up.
GPU_DEVICE void gpu_await(const std::uint32_t* from, std::uint32_t epoch,
                          const std::uint32_t* given_up = nullptr) {
  GpuSpin spin;
  while (static_cast<std::int32_t>(gpu_load_acquire(from) - epoch) < 0 && !gpu_given_up(given_up))
    spin.again();
}
// A count that comes with its epoch, in the upper half.
GPU_DEVICE std::uint32_t gpu_await_count(const std::uint64_t* from, std::uint32_t epoch) {
  GpuSpin spin;
  std::uint64_t word = gpu_load_acquire(from);
  while (static_cast<std::uint32_t>(word >> 32) != epoch) {
    spin.again();
    word = gpu_load_acquire(from);
  }
  return static_cast<std::uint32_t>(word);
}

// The exchange of this block with the block of the same number on every peer. All threads call everything.
// Blocks of a launch must all be resident, or each wait only for blocks of lower number.
template <bool lines>
class PeerExchange {
 public:
  GPU_DEVICE_MEMBER explicit PeerExchange(const PeerMemory& memory)
      : m_(memory), epoch_(memory.epochs[place()]) {
    gpu_barrier();  // the word is written again when the block ends
  }

  GPU_DEVICE_MEMBER void begin() { ++epoch_; }
  // A vector of this step for the rank `to`; `at` counts vectors, and is the same where it is taken.
  GPU_DEVICE_MEMBER void push(unsigned to, std::size_t at, const GpuBytes16& vector) const {
    unsigned char* slot = slot_of(to, static_cast<unsigned>(m_.rank));
    if constexpr (lines) {
      const std::uint64_t stamp = std::uint64_t{epoch_} << 32;
      auto* line = reinterpret_cast<GpuLine*>(slot) + 2 * at;
      GPU_UNROLL for (int i = 0; i < 2; ++i) {
        gpu_store_line(line + i, {{stamp | vector.word[2 * i], stamp | vector.word[2 * i + 1]}});
      }
    } else {
      gpu_store(slot, at, vector);
    }
  }
  // What the rank `from` pushed; with flags after meet().
  GPU_DEVICE_MEMBER GpuBytes16 take(unsigned from, std::size_t at) const {
    const unsigned char* slot = slot_of(static_cast<unsigned>(m_.rank), from);
    if constexpr (!lines) return gpu_load<GpuBytes16>(slot, at);
    const auto* line = reinterpret_cast<const GpuLine*>(slot) + 2 * at;
    GpuSpin spin;
    for (;;) {
      const GpuLine a = gpu_load_line(line), b = gpu_load_line(line + 1);
      if ((stamped(a.half[0]) && stamped(a.half[1]) && stamped(b.half[0]) && stamped(b.half[1])) ||
          gpu_given_up(m_.given_up)) {
        return {{static_cast<std::uint32_t>(a.half[0]), static_cast<std::uint32_t>(a.half[1]),
                 static_cast<std::uint32_t>(b.half[0]), static_cast<std::uint32_t>(b.half[1])}};
      }
      spin.again();
    }
  }
  // All of this step has been pushed by this block, and has come from all peers. Lines say so themselves.
  GPU_DEVICE_MEMBER void meet() const {
    if constexpr (lines) return;
    gpu_barrier();
    if (gpu_warp_index() == 0) {
      const unsigned lane = gpu_lane(), at = blockIdx.x * peer_most_ranks,
                     me = static_cast<unsigned>(m_.rank);
      const bool peer = lane < static_cast<unsigned>(m_.ranks) && lane != me;
      if (peer) gpu_store_release(m_.flags[lane] + at + me, epoch_);
      gpu_warp_fence();  // nobody waits before all have been told
      if (peer) gpu_await(m_.flags[me] + at + lane, epoch_, m_.given_up);
    }
    gpu_barrier();
  }
  GPU_DEVICE_MEMBER void end() const {
    if (threadIdx.x == 0) m_.epochs[place()] = epoch_;
  }

 private:
  GPU_DEVICE_MEMBER static unsigned place() { return (lines ? peer_most_blocks : 0) + blockIdx.x; }
  GPU_DEVICE_MEMBER bool stamped(std::uint64_t half) const {
    return static_cast<std::uint32_t>(half >> 32) == epoch_;
  }
  GPU_DEVICE_MEMBER unsigned char* slot_of(unsigned at, unsigned from) const {
    const std::size_t index =
        (std::size_t{blockIdx.x} * 2 + epoch_ % 2) * static_cast<unsigned>(m_.ranks) + from;
    return (lines ? m_.lines[at] : m_.slots[at]) +
           index * static_cast<std::size_t>(lines ? m_.line_bytes : m_.slot_bytes);
  }

  const PeerMemory& m_;
  std::uint32_t epoch_;
};

// Ranks whose loads are under way at once; on AMD one, because conditions and addresses of several would
// spill scalar registers.
#if defined(__HIP__)
#define GPU_NO_UNROLL _Pragma("nounroll")
#define GPU_EACH_RANK GPU_NO_UNROLL
constexpr unsigned ranks_at_once = 1;
#else
#if defined(ORRERY_SIMULATED_WARP)
#define GPU_NO_UNROLL
#else
#define GPU_NO_UNROLL _Pragma("unroll 1")
#endif
#define GPU_EACH_RANK GPU_UNROLL
constexpr unsigned ranks_at_once = 4;
#endif

// Σ over ranks, in their order, in fp32, of this rank's `own` and what peers pushed at `at`. At most `most`
// ranks.
template <unsigned most, bool lines>
GPU_DEVICE GpuFloat8 peer_sum(const PeerExchange<lines>& exchange, const PeerMemory& m, const GpuBytes16& own,
                              std::size_t at) {
  constexpr unsigned together = most < ranks_at_once ? most : ranks_at_once;
  GpuFloat8 sum{};
  GPU_NO_UNROLL for (unsigned first = 0; first < static_cast<unsigned>(m.ranks); first += together) {
    GpuBytes16 part[together] = {};
    GPU_UNROLL for (unsigned i = 0; i < together; ++i) {
      const unsigned r = first + i;
      if (r >= static_cast<unsigned>(m.ranks)) continue;
      part[i] = r == static_cast<unsigned>(m.rank) ? own : exchange.take(r, at);
    }
    GPU_UNROLL for (unsigned i = 0; i < together; ++i) {
      if (first + i >= static_cast<unsigned>(m.ranks)) continue;
      const GpuFloat8 values = gpu_unpack_bf16(part[i]);
      GPU_UNROLL for (int n = 0; n < 8; ++n) sum.value[n] += values.value[n];
    }
  }
  return sum;
}

// A vector to all other ranks.
template <unsigned most, bool lines>
GPU_DEVICE void peer_push(const PeerExchange<lines>& exchange, const PeerMemory& m, std::size_t at,
                          const GpuBytes16& vector) {
  GPU_EACH_RANK for (unsigned r = 0; r < most; ++r) {
    if (r < static_cast<unsigned>(m.ranks) && r != static_cast<unsigned>(m.rank))
      exchange.push(r, at, vector);
  }
}

// True in all threads of the last block of the launch that comes here; what the others wrote before is
// visible to it, and, once it releases a word, to whoever acquires that. `arrived` is zero again afterwards.
GPU_DEVICE bool gpu_last_block(unsigned* arrived) {
  GPU_SHARED(unsigned, last, 1);
  gpu_barrier();
  if (threadIdx.x == 0) {
    gpu_fence_system();
    last[0] = gpu_atomic_add(arrived, 1U) + 1 == gridDim.x ? 1U : 0U;
    if (last[0] != 0) {
      *arrived = 0;
      gpu_fence_system();
    }
  }
  gpu_barrier();
  return last[0] != 0;
}

}  // namespace orrery::kernels
