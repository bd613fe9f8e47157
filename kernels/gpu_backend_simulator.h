// gpu_runtime.h's primitives on the CPU fibre simulator. ORRERY_SIMULATED_WARP is 32 or 64; the 64-lane build
// stands for gfx942 and so converts to FNUZ fp8.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu_simulator.h"
#include "kernels/small_floats.h"

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)
#define GPU_WARP ORRERY_SIMULATED_WARP
#define GPU_DEVICE inline
#define GPU_DEVICE_MEMBER
#define GPU_UNROLL

#define threadIdx (::orrery::kernels::simulator::here().thread)
#define blockIdx (::orrery::kernels::simulator::here().block)
#define blockDim (::orrery::kernels::simulator::here().block_extent)
#define gridDim (::orrery::kernels::simulator::here().grid)

// Shared memory of a block: `GPU_SHARED(float, parts, 32);` declares an array of 32.
#define GPU_SHARED(type, name, count) \
  static const char name##_site = 0;  \
  type* const name =                  \
      static_cast<type*>(::orrery::kernels::simulator::shared(&name##_site, sizeof(type) * (count)))

namespace orrery::kernels {

inline constexpr Fp8Format gpu_fp8_format = GPU_WARP == 64 ? Fp8Format::fnuz : Fp8Format::ocp;
inline constexpr float gpu_fp8_largest = fp8_largest(gpu_fp8_format);

inline void gpu_barrier() { simulator::barrier(); }
inline unsigned gpu_lane() { return simulator::lane(); }

// Value of the lane `source` (of this warp). 4- and 8-byte types.
template <class T>
T gpu_shuffle(T value, unsigned source) {
  std::uint64_t raw = 0;
  std::memcpy(&raw, &value, sizeof value);
  const std::uint64_t* all = simulator::exchange(raw);
  std::memcpy(&value, &all[source % simulator::lanes()], sizeof value);
  return value;
}
inline std::uint64_t gpu_ballot(bool predicate) {
  const std::uint64_t* all = simulator::exchange(predicate);
  std::uint64_t bits = 0;
  for (unsigned i = 0; i < simulator::lanes(); ++i) bits |= all[i] << i;
  return bits;
}

// Lanes of a warp meet; what they wrote to shared memory is there for all of them.
inline void gpu_warp_fence() { simulator::exchange(0); }

inline float gpu_max(float a, float b) { return std::fmax(a, b); }  // a NaN loses
inline float gpu_min(float a, float b) { return std::fmin(a, b); }
inline float gpu_abs(float a) { return std::fabs(a); }
inline float gpu_rsqrt(float x) { return 1.0F / std::sqrt(x); }
inline float gpu_reciprocal(float x) { return 1.0F / x; }
inline float gpu_exp2(float x) { return std::exp2(x); }
inline float gpu_log2(float x) { return std::log2(x); }
inline float gpu_sqrt(float x) { return std::sqrt(x); }
inline float gpu_cos_turns(float turns) { return std::cos(6.28318530717958648F * turns); }
inline float gpu_sin_turns(float turns) { return std::sin(6.28318530717958648F * turns); }
template <class To, class From>
To gpu_bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// One OS thread runs all blocks, so plain reads and writes are atomic.
template <class T>
T gpu_atomic_add(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}
template <class T>
T gpu_atomic_max(T* address, T value) {
  const T before = *address;
  if (value > before) *address = value;
  return before;
}
template <class T>
void gpu_atomic_write(T* address, T value) {
  *address = value;
}
template <class T>
T gpu_atomic_read(const T* address) {
  return *address;
}
inline void gpu_fence() {}

// Two floats as bf16: `low` in the low half.
inline std::uint32_t gpu_pack_bf16(float low, float high) {
  return std::uint32_t{float_to_bf16(low)} | std::uint32_t{float_to_bf16(high)} << 16;
}
// Four floats as fp8, a in the lowest byte; saturating, NaN stays NaN.
inline std::uint32_t gpu_pack_fp8(float a, float b, float c, float d) {
  return std::uint32_t{float_to_fp8(a, gpu_fp8_format)} |
         std::uint32_t{float_to_fp8(b, gpu_fp8_format)} << 8 |
         std::uint32_t{float_to_fp8(c, gpu_fp8_format)} << 16 |
         std::uint32_t{float_to_fp8(d, gpu_fp8_format)} << 24;
}

struct GpuGrid {
  unsigned x = 1, y = 1, z = 1;
};
template <class... Parameters, class... Arguments>
void gpu_launch(void (*kernel)(Parameters...), GpuGrid grid, unsigned threads, void*,
                Arguments... arguments) {
  simulator::launch({grid.x, grid.y, grid.z}, threads, GPU_WARP, [=] { kernel(arguments...); });
}
// gpu_backend_cuda.h says what this is for; here the one before is through.
template <class Parameters>
void gpu_launch_early(void (*kernel)(Parameters), GpuGrid grid, unsigned threads, void* stream,
                      Parameters parameters) {
  gpu_launch(kernel, grid, threads, stream, parameters);
}
GPU_DEVICE void gpu_let_next_start() {}
GPU_DEVICE void gpu_wait_for_previous() {}
// Kernels that fill the part with a fixed number of blocks: few, so that their loops go round.
inline unsigned gpu_compute_units() { return 3; }

}  // namespace orrery::kernels
