// gpu_runtime.h's primitives for AMD, freestanding: clang's builtins and no ROCm header, so that the device
// code compiles wherever clang 19 is. Compiled for the device only (--cuda-device-only); host code that loads
// the code objects comes with issue 7.
#pragma once

#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(threads, ...) __attribute__((amdgpu_flat_work_group_size(1, threads)))
#if defined(__gfx942__)
#define GPU_WARP 64
#else
#define GPU_WARP 32
#endif
#define GPU_DEVICE inline __attribute__((device, always_inline))
#define GPU_DEVICE_MEMBER __attribute__((device, always_inline))
#define GPU_UNROLL _Pragma("unroll")

// Shared memory of a block: `GPU_SHARED(float, parts, 32);` declares an array of 32.
#define GPU_SHARED(type, name, count) alignas(16) __shared__ type name[count]

namespace orrery::kernels {

#if defined(__HIP_DEVICE_COMPILE__)
// threadIdx.x and its like read as in CUDA; each member is a builtin.
#define GPU_INDEX(type, name, gx, gy, gz)             \
  struct type {                                       \
    __declspec(property(get = get_x)) unsigned x;     \
    __declspec(property(get = get_y)) unsigned y;     \
    __declspec(property(get = get_z)) unsigned z;     \
    static __device__ unsigned get_x() { return gx; } \
    static __device__ unsigned get_y() { return gy; } \
    static __device__ unsigned get_z() { return gz; } \
  };                                                  \
  [[maybe_unused]] static __device__ const type name = {};
GPU_INDEX(GpuThreadIndex, threadIdx, __builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y(),
          __builtin_amdgcn_workitem_id_z())
GPU_INDEX(GpuBlockIndex, blockIdx, __builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),
          __builtin_amdgcn_workgroup_id_z())
GPU_INDEX(GpuBlockExtent, blockDim, __builtin_amdgcn_workgroup_size_x(), __builtin_amdgcn_workgroup_size_y(),
          __builtin_amdgcn_workgroup_size_z())
GPU_INDEX(GpuGridExtent, gridDim, __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(),
          __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y(),
          __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z())
#undef GPU_INDEX
#endif

#if defined(__gfx942__)
inline constexpr float gpu_fp8_largest = 240.0F;  // FNUZ e4m3
#else
inline constexpr float gpu_fp8_largest = 448.0F;  // OCP e4m3fn
#endif

GPU_DEVICE void gpu_barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
GPU_DEVICE unsigned gpu_lane() {
#if GPU_WARP == 64
  return __builtin_amdgcn_mbcnt_hi(~0U, __builtin_amdgcn_mbcnt_lo(~0U, 0U));
#else
  return __builtin_amdgcn_mbcnt_lo(~0U, 0U);
#endif
}

template <class To, class From>
GPU_DEVICE To gpu_bit_cast(From from) {
  return __builtin_bit_cast(To, from);
}
// Value of the lane `source` (of this warp). 4- and 8-byte types.
template <class T>
GPU_DEVICE T gpu_shuffle(T value, unsigned source) {
  static_assert(sizeof(T) % sizeof(int) == 0);
  int words[sizeof(T) / sizeof(int)];
  __builtin_memcpy(words, &value, sizeof value);
  GPU_UNROLL for (int& word : words) word = __builtin_amdgcn_ds_bpermute(static_cast<int>(source << 2), word);
  __builtin_memcpy(&value, words, sizeof value);
  return value;
}
GPU_DEVICE std::uint64_t gpu_ballot(bool predicate) {
#if GPU_WARP == 64
  return __builtin_amdgcn_ballot_w64(predicate);
#else
  return __builtin_amdgcn_ballot_w32(predicate);
#endif
}

// Lanes of a wave go together; what they wrote to LDS is there for all of them, in order.
GPU_DEVICE void gpu_warp_fence() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}

GPU_DEVICE float gpu_max(float a, float b) { return __builtin_fmaxf(a, b); }  // a NaN loses
GPU_DEVICE float gpu_min(float a, float b) { return __builtin_fminf(a, b); }
GPU_DEVICE float gpu_abs(float a) { return __builtin_fabsf(a); }
GPU_DEVICE float gpu_rsqrt(float x) { return __builtin_amdgcn_rsqf(x); }
GPU_DEVICE float gpu_reciprocal(float x) { return 1.0F / x; }
GPU_DEVICE float gpu_exp2(float x) { return __builtin_exp2f(x); }
GPU_DEVICE float gpu_log2(float x) { return __builtin_log2f(x); }
GPU_DEVICE float gpu_sqrt(float x) { return __builtin_sqrtf(x); }
GPU_DEVICE float gpu_cos_turns(float turns) { return __builtin_amdgcn_cosf(turns); }  // v_cos takes turns
GPU_DEVICE float gpu_sin_turns(float turns) { return __builtin_amdgcn_sinf(turns); }

GPU_DEVICE int gpu_atomic_add(int* address, int value) {
  return __hip_atomic_fetch_add(address, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
GPU_DEVICE unsigned gpu_atomic_add(unsigned* address, unsigned value) {
  return __hip_atomic_fetch_add(address, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
GPU_DEVICE unsigned gpu_atomic_max(unsigned* address, unsigned value) {
  return __hip_atomic_fetch_max(address, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
// Written to and read from where the whole device sees it.
GPU_DEVICE void gpu_atomic_write(std::uint64_t* address, std::uint64_t value) {
  __hip_atomic_store(address, value, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
GPU_DEVICE std::uint64_t gpu_atomic_read(const std::uint64_t* address) {
  return __hip_atomic_load(address, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
GPU_DEVICE void gpu_fence() { __builtin_amdgcn_fence(__ATOMIC_SEQ_CST, "agent"); }

// Two floats as bf16, `low` in the low half. Neither target has the instruction (gfx950 does).
GPU_DEVICE std::uint32_t gpu_round_bf16(float value) {
  const std::uint32_t bits = gpu_bit_cast<std::uint32_t>(value);
  return value != value ? 0x7FFFU : (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16;
}
GPU_DEVICE std::uint32_t gpu_pack_bf16(float low, float high) {
  return gpu_round_bf16(low) | gpu_round_bf16(high) << 16;
}
// Four floats as fp8, a in the lowest byte. The instruction turns overflow into NaN, hence the comparison,
// which a NaN passes.
GPU_DEVICE float gpu_clamp_fp8(float value) {
  if (value > gpu_fp8_largest) return gpu_fp8_largest;
  return value < -gpu_fp8_largest ? -gpu_fp8_largest : value;
}
GPU_DEVICE std::uint32_t gpu_pack_fp8(float a, float b, float c, float d) {
#if defined(__HIP_DEVICE_COMPILE__)
  int packed = __builtin_amdgcn_cvt_pk_fp8_f32(gpu_clamp_fp8(a), gpu_clamp_fp8(b), 0, false);
  packed = __builtin_amdgcn_cvt_pk_fp8_f32(gpu_clamp_fp8(c), gpu_clamp_fp8(d), packed, true);
  return static_cast<std::uint32_t>(packed);
#else
  return 0;
#endif
}

struct GpuGrid {
  unsigned x = 1, y = 1, z = 1;
};
// Naming the kernel makes clang emit it; nothing is launched from a device-only compilation.
template <class... Parameters, class... Arguments>
void gpu_launch(void (*)(Parameters...), GpuGrid, unsigned, void*, Arguments...) {}
template <class Parameters>
void gpu_launch_early(void (*)(Parameters), GpuGrid, unsigned, void*, Parameters) {}
GPU_DEVICE void gpu_let_next_start() {}
GPU_DEVICE void gpu_wait_for_previous() {}
inline unsigned gpu_compute_units() { return 1; }

}  // namespace orrery::kernels
