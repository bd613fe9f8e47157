// Warp-level matrix instructions of NVIDIA parts (mma.sync, ldmatrix, cp.async; sm_89 and later), and the
// same in the CPU fibre simulator, written from the fragment tables of the PTX ISA. Threads of a block are
// numbered by threadIdx.x alone; control flow around every call is uniform in the warp.
//
// Fragments, with g = lane / 4 and t = lane % 4. "Pair" is two 16-bit or four 8-bit elements: 4 bytes.
//   A (16 rows × 32 bytes): a[0] row g, pair t; a[1] row g + 8, pair t; a[2] row g, pair t + 4; a[3] row g +
//   8,
//                           pair t + 4
//   B (8 columns × 32 bytes): b[0] column g, pair t; b[1] column g, pair t + 4
//   D (16 rows × 8 columns of fp32): d[0], d[1] row g, columns 2t and 2t + 1; d[2], d[3] row g + 8
// Counted in bytes, 16-bit and 8-bit operands lie alike, so that one kernel loads either.
#pragma once

#include "kernels/gpu_runtime.h"
#include "kernels/shared_tile.h"
#if defined(ORRERY_SIMULATED_WARP)
#include "kernels/tensor_core_simulated.h"
#endif

namespace orrery::kernels {

#if !defined(ORRERY_SIMULATED_WARP)

using SharedAddress = std::uint32_t;  // in the shared window, as ldmatrix and cp.async take it

GPU_DEVICE SharedAddress shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8×16-byte matrices; lane i names the row i % 8 of matrix i / 8.
GPU_DEVICE void load_matrix_x4(std::uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// The same, each matrix of 8×8 16-bit elements transposed.
GPU_DEVICE void load_matrix_x4_transposed(std::uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

#define ORRERY_MMA(name, shape_and_types)                                                              \
  GPU_DEVICE void name(float(&d)[4], const std::uint32_t(&a)[4], std::uint32_t b0, std::uint32_t b1) { \
    asm volatile("mma.sync.aligned." shape_and_types                                                   \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                    \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                      \
  }
ORRERY_MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
ORRERY_MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
ORRERY_MMA(mma_e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32")
#undef ORRERY_MMA

// 16 bytes past L1; where `valid` is false the destination gets zeros and the source is not read.
GPU_DEVICE void copy_async(SharedAddress to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
GPU_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending>
GPU_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

GPU_DEVICE void warp_sync() { __syncwarp(); }

// low → bits 0 to 15, high → bits 16 to 31; to nearest even.
GPU_DEVICE std::uint32_t pack_f16(float low, float high) {
  std::uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// Two e4m3 (bits 0 to 7 and 8 to 15) as two f16: exact.
GPU_DEVICE std::uint32_t f16_of_e4m3(std::uint32_t two) {
  std::uint32_t r;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(static_cast<std::uint16_t>(two)));
  return r;
}
// Four, the lower two in `low`: no shift comes between.
GPU_DEVICE void f16_of_e4m3(std::uint32_t four, std::uint32_t& low, std::uint32_t& high) {
  asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.rn.f16x2.e4m3x2 %0, a;\ncvt.rn.f16x2.e4m3x2 %1, b;\n}\n"
      : "=r"(low), "=r"(high)
      : "r"(four));
}
GPU_DEVICE std::uint32_t permute_bytes(std::uint32_t x, std::uint32_t y, std::uint32_t selector) {
  return __byte_perm(x, y, selector);
}
GPU_DEVICE float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
GPU_DEVICE void keep_order() {}  // ptxas needs no telling (matrix_core_amd.h)
GPU_DEVICE std::uint32_t fresh(std::uint32_t number) { return number; }
GPU_DEVICE GpuBytes16 load_or_zeros(const void* from, bool valid) {
  return valid ? gpu_load<GpuBytes16>(from, 0) : GpuBytes16{};
}
#define ORRERY_PRAGMA(text) _Pragma(#text)
#define ORRERY_UNROLL_BY(count) ORRERY_PRAGMA(unroll count)

// Dynamic shared memory; `bytes` is what the simulator sets aside (the launch says how much there is).
#define ORRERY_DYNAMIC_SHARED(name, bytes) extern __shared__ __align__(1024) unsigned char name[]

template <class Parameters>
void launch_shared(void (*kernel)(Parameters), GpuGrid grid, unsigned threads, std::size_t shared_bytes,
                   void* stream, const Parameters& parameters) {
  const auto size = static_cast<int>(shared_bytes);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, size);
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(
      parameters);
}

#endif  // not simulated

}  // namespace orrery::kernels
