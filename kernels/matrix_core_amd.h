// Wave-level matrix instructions of AMD parts: MFMA of gfx942 (64 lanes, e4m3 is FNUZ) and WMMA of gfx1201
// (32 lanes, OCP), and in the CPU fibre simulator the same, emulated from the tables of matrix_layout.h.
// Operands are 32-bit registers as a lane holds them. What the kernels use on every target is in
// matrix_tile.h.
//
// There is no asynchronous copy into shared memory of 16 bytes a lane (gfx950 has one): copy_async loads and
// stores at once, and a kernel that wants to run ahead keeps what it loaded in registers.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/shared_tile.h"
#if defined(ORRERY_SIMULATED_WARP)
#include "kernels/matrix_core_amd_simulated.h"
#endif

namespace orrery::kernels {

#if !defined(ORRERY_SIMULATED_WARP)

using SharedAddress = std::uint32_t;  // an offset into the work group's LDS

#if defined(__HIP_DEVICE_COMPILE__)
#define ORRERY_LDS __attribute__((address_space(3)))
#else
#define ORRERY_LDS
#endif

GPU_DEVICE SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(reinterpret_cast<std::uintptr_t>((const ORRERY_LDS char*)pointer));
}
template <class T>
GPU_DEVICE T load_shared(SharedAddress from) {
  using Word = std::uint32_t __attribute__((ext_vector_type(sizeof(T) / 4)));
  static_assert(sizeof(Word) == sizeof(T));
  return gpu_bit_cast<T>(*(const ORRERY_LDS Word*)static_cast<std::uintptr_t>(from));
}
GPU_DEVICE std::uint32_t load_shared_16(SharedAddress from) {
  return *(const ORRERY_LDS std::uint16_t*)static_cast<std::uintptr_t>(from);
}
GPU_DEVICE std::uint32_t load_shared_8(SharedAddress from) {
  return *(const ORRERY_LDS std::uint8_t*)static_cast<std::uintptr_t>(from);
}
GPU_DEVICE void store_shared(SharedAddress to, const GpuBytes16& value) {
  using Word = std::uint32_t __attribute__((ext_vector_type(4)));
  *(ORRERY_LDS Word*)static_cast<std::uintptr_t>(to) = gpu_bit_cast<Word>(value);
}

#if defined(__gfx942__)
using Mfma4 = float __attribute__((ext_vector_type(4)));
using MfmaBf16 = short __attribute__((ext_vector_type(4)));
GPU_DEVICE void mfma_16x16x16_bf16(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[2]) {
  Mfma4 sums = {d[0], d[1], d[2], d[3]};
  sums = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(__builtin_bit_cast(MfmaBf16, a),
                                                   __builtin_bit_cast(MfmaBf16, b), sums, 0, 0, 0);
  GPU_UNROLL for (int i = 0; i < 4; i++) d[i] = sums[i];
}
GPU_DEVICE void mfma_16x16x32_fp8(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[2]) {
  Mfma4 sums = {d[0], d[1], d[2], d[3]};
  sums = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(__builtin_bit_cast(long, a), __builtin_bit_cast(long, b),
                                                    sums, 0, 0, 0);
  GPU_UNROLL for (int i = 0; i < 4; i++) d[i] = sums[i];
}
#elif defined(__HIP_DEVICE_COMPILE__)
using Wmma8 = float __attribute__((ext_vector_type(8)));
using WmmaBf16 = short __attribute__((ext_vector_type(8)));
using WmmaFp8 = int __attribute__((ext_vector_type(2)));
GPU_DEVICE void wmma_16x16x16_bf16(float (&d)[2][4], const std::uint32_t (&a)[4],
                                   const std::uint32_t (&b)[4]) {
  Wmma8 sums;
  GPU_UNROLL for (int i = 0; i < 8; i++) sums[i] = d[i / 4][i % 4];
  sums = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(__builtin_bit_cast(WmmaBf16, a),
                                                           __builtin_bit_cast(WmmaBf16, b), sums);
  GPU_UNROLL for (int i = 0; i < 8; i++) d[i / 4][i % 4] = sums[i];
}
GPU_DEVICE void wmma_16x16x16_fp8(float (&d)[2][4], const std::uint32_t (&a)[2],
                                  const std::uint32_t (&b)[2]) {
  Wmma8 sums;
  GPU_UNROLL for (int i = 0; i < 8; i++) sums[i] = d[i / 4][i % 4];
  sums = __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(__builtin_bit_cast(WmmaFp8, a),
                                                              __builtin_bit_cast(WmmaFp8, b), sums);
  GPU_UNROLL for (int i = 0; i < 8; i++) d[i / 4][i % 4] = sums[i];
}
#endif

// Two e4m3 (bits 0 to 7 and 8 to 15) as two bf16: exact, three bits of mantissa fit into seven.
GPU_DEVICE std::uint32_t bf16_of_e4m3(std::uint32_t two) {
#if defined(__HIP_DEVICE_COMPILE__)
  using Two = float __attribute__((ext_vector_type(2)));
  const Two values = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(two), false);
  return __builtin_amdgcn_perm(gpu_bit_cast<std::uint32_t>(values[1]), gpu_bit_cast<std::uint32_t>(values[0]),
                               0x07060302U);
#else
  return two;
#endif
}
GPU_DEVICE float exp2_fast(float x) { return __builtin_amdgcn_exp2f(x); }
// The compiler moves no instruction past it: without one, loads of a whole unrolled loop come first, and
// spill.
GPU_DEVICE void keep_order() { __builtin_amdgcn_sched_barrier(0); }
// The same number, of which the compiler knows nothing: addresses that are computed from it are not kept in
// registers for a whole loop, where a swizzled tile has a hundred of them.
GPU_DEVICE std::uint32_t fresh(std::uint32_t number) {
#if defined(__HIP_DEVICE_COMPILE__)
  asm volatile("" : "+v"(number));
#endif
  return number;
}

#define ORRERY_PRAGMA(text) _Pragma(#text)
#define ORRERY_UNROLL_BY(count) ORRERY_PRAGMA(unroll count)
#define ORRERY_DYNAMIC_SHARED(name, bytes) alignas(1024) extern __shared__ unsigned char name[]

template <class Parameters>
void launch_shared(void (*kernel)(Parameters), GpuGrid grid, unsigned threads, std::size_t, void* stream,
                   const Parameters& parameters) {
  gpu_launch(kernel, grid, threads, stream, parameters);
}

#endif  // not simulated

// 16 bytes, zeros where `valid` is false: the source must be readable even so, because a load that may not be
// made is a branch, and the loads behind it wait.
GPU_DEVICE GpuBytes16 load_or_zeros(const void* from, bool valid) {
  GpuBytes16 bytes = gpu_load<GpuBytes16>(from, 0);
  GPU_UNROLL for (int i = 0; i < 4; i++) bytes.word[i] = valid ? bytes.word[i] : 0;
  return bytes;
}
GPU_DEVICE void copy_async(SharedAddress to, const void* from, bool valid) {
  store_shared(to, load_or_zeros(from, valid));
}
GPU_DEVICE void warp_sync() { gpu_warp_fence(); }
GPU_DEVICE void copy_async_commit() {}
template <int Pending>
GPU_DEVICE void copy_async_wait() {}

}  // namespace orrery::kernels
