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

// The greater of each half of three words.
GPU_DEVICE std::uint32_t greatest_halves(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if defined(__CUDA_ARCH__)
  return __vimax3_u16x2(a, b, c);
#else
  const auto of = [](std::uint32_t x, std::uint32_t y, std::uint32_t z) {
    return x > y ? (x > z ? x : z) : (y > z ? y : z);
  };
  return of(a & 0xffffU, b & 0xffffU, c & 0xffffU) | of(a >> 16, b >> 16, c >> 16) << 16;
#endif
}

// Four e4m3 as f16 times 2⁻⁸, the even ones in one word, the odd ones in another: their exponents and
// mantissas, three bits lower, are those of f16 but for its bias, subnormal ones too, so it is exact. A NaN
// becomes 480; E4m3Halves sees that there was one. On Hopper these eight operations are faster than two
// of cvt.rn.f16x2.e4m3x2, which take about 16 clocks each a warp.
struct E4m3Pairs {
  std::uint32_t even, odd;
};
constexpr float e4m3_halves_scale = 256;  // what products must be multiplied by
struct E4m3Halves {
  std::uint32_t greatest = 0;  // magnitudes so far

  GPU_DEVICE_MEMBER E4m3Pairs operator()(std::uint32_t four) {
    const std::uint32_t even = four << 7 & 0x3f803f80U, odd = four >> 1 & 0x3f803f80U;
    greatest = greatest_halves(greatest, even, odd);
    return {even | (four << 8 & 0x80008000U), odd | (four & 0x80008000U)};
  }
  GPU_DEVICE_MEMBER bool any_nan() const {
    return (greatest & 0xffffU) == 0x3f80U || greatest >> 16 == 0x3f80U;
  }
};
// NaN for NaN, zeros for all else.
struct E4m3Nans {
  GPU_DEVICE_MEMBER E4m3Pairs operator()(std::uint32_t four) const { return {pair(four), pair(four >> 8)}; }

 private:
  GPU_DEVICE_MEMBER static std::uint32_t pair(std::uint32_t two) {
    return ((two & 0x7fU) == 0x7fU ? 0x7fffU : 0U) | ((two & 0x7f0000U) == 0x7f0000U ? 0x7fff0000U : 0U);
  }
};

}  // namespace orrery::kernels
