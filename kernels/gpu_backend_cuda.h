// gpu_runtime.h's primitives for NVIDIA (sm_89, sm_90a). Conversions are the PTX instructions themselves:
// cuda_bf16.h and cuda_fp8.h would double the time that a small kernel takes to compile.
#pragma once

#include <cuda_runtime.h>

#define GPU_WARP 32
#define GPU_DEVICE __device__ __forceinline__
#define GPU_DEVICE_MEMBER __device__ __forceinline__
#define GPU_UNROLL _Pragma("unroll")

// Shared memory of a block: `GPU_SHARED(float, parts, 32);` declares an array of 32.
#define GPU_SHARED(type, name, count) alignas(16) __shared__ type name[count]

namespace orrery::kernels {

inline constexpr float gpu_fp8_largest = 448.0F;  // OCP e4m3fn

GPU_DEVICE void gpu_barrier() { __syncthreads(); }
GPU_DEVICE unsigned gpu_lane() {
  unsigned lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Value of the lane `source` (of this warp). 4- and 8-byte types.
template <class T>
GPU_DEVICE T gpu_shuffle(T value, unsigned source) {
  return __shfl_sync(0xFFFFFFFFU, value, static_cast<int>(source));
}
GPU_DEVICE std::uint64_t gpu_ballot(bool predicate) { return __ballot_sync(0xFFFFFFFFU, predicate); }
// Lanes of a warp meet; what they wrote to shared memory is there for all of them.
GPU_DEVICE void gpu_warp_fence() { __syncwarp(); }

GPU_DEVICE float gpu_max(float a, float b) { return fmaxf(a, b); }  // a NaN loses
GPU_DEVICE float gpu_min(float a, float b) { return fminf(a, b); }
GPU_DEVICE float gpu_abs(float a) { return fabsf(a); }
GPU_DEVICE float gpu_rsqrt(float x) { return rsqrtf(x); }
GPU_DEVICE float gpu_reciprocal(float x) { return __frcp_rn(x); }
GPU_DEVICE float gpu_exp2(float x) { return exp2f(x); }
GPU_DEVICE float gpu_log2(float x) { return log2f(x); }
GPU_DEVICE float gpu_sqrt(float x) { return __fsqrt_rn(x); }
GPU_DEVICE float gpu_cos_turns(float turns) { return cospif(2.0F * turns); }
GPU_DEVICE float gpu_sin_turns(float turns) { return sinpif(2.0F * turns); }
template <class To, class From>
GPU_DEVICE To gpu_bit_cast(From from) {
  return __builtin_bit_cast(To, from);
}

GPU_DEVICE int gpu_atomic_add(int* address, int value) { return atomicAdd(address, value); }
GPU_DEVICE unsigned gpu_atomic_add(unsigned* address, unsigned value) { return atomicAdd(address, value); }
GPU_DEVICE unsigned gpu_atomic_max(unsigned* address, unsigned value) { return atomicMax(address, value); }
// Written to and read from where the whole device sees it.
GPU_DEVICE void gpu_atomic_write(std::uint64_t* address, std::uint64_t value) {
  atomicExch(reinterpret_cast<unsigned long long*>(address), value);
}
GPU_DEVICE std::uint64_t gpu_atomic_read(const std::uint64_t* address) {
  return *static_cast<const volatile std::uint64_t*>(address);
}
GPU_DEVICE void gpu_fence() { __threadfence(); }

// Two floats as bf16: `low` in the low half.
GPU_DEVICE std::uint32_t gpu_pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
// Four floats as fp8, a in the lowest byte; saturating, NaN stays NaN.
GPU_DEVICE std::uint32_t gpu_pack_fp8(float a, float b, float c, float d) {
  std::uint16_t low, high;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
  return std::uint32_t{low} | std::uint32_t{high} << 16;
}

// A kernel launched with gpu_launch_early may begin while the one before it in the stream still runs, once
// every block of that has said gpu_let_next_start or is through; what that one wrote is there after
// gpu_wait_for_previous. (Programmatic dependent launch, from compute capability 9.0 on; one after the other
// elsewhere.)
GPU_DEVICE void gpu_let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
GPU_DEVICE void gpu_wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

struct GpuGrid {
  unsigned x = 1, y = 1, z = 1;
};
template <class... Parameters, class... Arguments>
void gpu_launch(void (*kernel)(Parameters...), GpuGrid grid, unsigned threads, void* stream,
                Arguments... arguments) {
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<Parameters>(arguments)...);
}
template <class Parameters>
void gpu_launch_early(void (*kernel)(Parameters), GpuGrid grid, unsigned threads, void* stream,
                      Parameters parameters) {
  int device = 0, major = 0;
  static_cast<void>(cudaGetDevice(&device));
  static_cast<void>(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(grid.x, grid.y, grid.z);
  launch.blockDim = dim3(threads);
  launch.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  launch.attrs = &early;
  launch.numAttrs = major >= 9 ? 1 : 0;
  static_cast<void>(cudaLaunchKernelEx(&launch, kernel, parameters));
}
inline unsigned gpu_compute_units() {
  int device = 0, units = 1;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&units, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  return static_cast<unsigned>(units);
}

}  // namespace orrery::kernels
