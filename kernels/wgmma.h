// Hopper's asynchronous matrix instructions, tensor copies and barriers (sm_90a; include only in code that is
// compiled for it). None of this runs in the simulator.
//
// Operands lie in shared memory as rows of 128 bytes with the copy engine's 128-byte swizzle, eight rows (1
// KiB) to a pattern. Accumulators of a warpgroup: with w = warp in the group, g = lane / 4 and t = lane % 4,
// d[4 j] and d[4 j + 1] are row 16 w + g, columns 8 j + 2 t and + 1; d[4 j + 2] and d[4 j + 3] the same of
// row + 8.
#pragma once

#include <cuda.h>

#include "kernels/gpu_runtime.h"
#include "kernels/tensor_core.h"
#include "kernels/wgmma_operands.h"

namespace orrery::kernels {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Where an operand begins: address / 16; 1 KiB from one group of eight rows to the next; 128-byte swizzle.
GPU_DEVICE std::uint64_t matrix_descriptor(SharedAddress address) {
  return static_cast<std::uint64_t>((address & 0x3FFFFU) >> 4) | std::uint64_t{1} << 16 |
         std::uint64_t{64} << 32 | std::uint64_t{1} << 62;
}

GPU_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GPU_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
GPU_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

GPU_DEVICE void barrier_init(SharedAddress barrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// After barrier_init, before other threads and the copy engine see the barriers.
GPU_DEVICE void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
GPU_DEVICE void barrier_arrive(SharedAddress barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
GPU_DEVICE void barrier_expect(SharedAddress barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Returns when the phase of this parity is over.
GPU_DEVICE void barrier_wait(SharedAddress barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@over bra done;\n"
      "bra again;\n"
      "done:\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// A box of the map, its corner at element (x, y), to shared memory; the barrier counts its bytes.
GPU_DEVICE void copy_box(SharedAddress to, const CUtensorMap* map, int x, int y, SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}
// Like copy_box, of a map of three dimensions.
GPU_DEVICE void copy_box(SharedAddress to, const CUtensorMap* map, int x, int y, int z,
                         SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(to),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}
// Bytes as they lie; both addresses and `bytes` are multiples of 16.
GPU_DEVICE void copy_bytes(SharedAddress to, const void* from, unsigned bytes, SharedAddress barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
// Makes ordinary stores to shared memory visible to the copy engine and wgmma.
GPU_DEVICE void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Meets `threads` threads of the block; `id` from 1 to 15.
GPU_DEVICE void meet(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
template <int Registers>
GPU_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers>
GPU_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

GPU_DEVICE void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// d = a · bᵀ (+ d when add is not 0) over 32 bytes of k: 64 rows of a, twice as many rows of b as d has
// elements.
GPU_DEVICE void wgmma_bf16(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, add, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(add)
      : "memory");
}

GPU_DEVICE void wgmma_bf16(float (&d)[128], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
      "}, %128, %129, add, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]),
        "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
        "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]),
        "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]),
        "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]),
        "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]),
        "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]),
        "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]),
        "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]), "+f"(d[120]),
        "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
      : "l"(a), "l"(b), "r"(add)
      : "memory");
}

GPU_DEVICE void wgmma_e4m3(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, add, 1, 1;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
        "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
        "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
        "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "l"(a), "l"(b), "r"(add)
      : "memory");
}

// 64 rows × 128 columns, accumulators as eight columns a fragment.
GPU_DEVICE void wgmma_bf16(float (&d)[16][4], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, add, 1, 1, 0, 0;\n}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]),
        "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]),
        "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]),
        "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3])
      : "l"(a), "l"(b), "r"(add)
      : "memory");
}

// 64 rows × 64 columns, the same; also of fp16.
#define ORRERY_WGMMA_64(name, type)                                                                     \
  GPU_DEVICE void name(float(&d)[8][4], std::uint64_t a, std::uint64_t b, int add) {                    \
    asm volatile(                                                                                       \
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"                                                \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" ORRERY_TEXT0 ", " ORRERY_TEXT1 \
        ", " ORRERY_TEXT2 ", " ORRERY_TEXT3 "}, %32, %33, add, 1, 1, 0, 0;\n}\n"                        \
        : ORRERY_FRAGMENTS(d, 0), ORRERY_FRAGMENTS(d, 4)                                                \
        : "l"(a), "l"(b), "r"(add)                                                                      \
        : "memory");                                                                                    \
  }
ORRERY_WGMMA_64(wgmma_bf16, "bf16")
ORRERY_WGMMA_64(wgmma_f16, "f16")
#undef ORRERY_WGMMA_64

// d[8 Half …] += a · b: 64 rows from registers (an A fragment of 16 of k a warp), 64 columns of b, which lies
// with its columns along the rows of 128 bytes.
template <int Half, int Fragments>
GPU_DEVICE void wgmma_bf16_transposed(float (&d)[Fragments][4], const std::uint32_t (&a)[4],
                                      std::uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(d[8 * Half + 0][0]), "+f"(d[8 * Half + 0][1]), "+f"(d[8 * Half + 0][2]),
        "+f"(d[8 * Half + 0][3]), "+f"(d[8 * Half + 1][0]), "+f"(d[8 * Half + 1][1]),
        "+f"(d[8 * Half + 1][2]), "+f"(d[8 * Half + 1][3]), "+f"(d[8 * Half + 2][0]),
        "+f"(d[8 * Half + 2][1]), "+f"(d[8 * Half + 2][2]), "+f"(d[8 * Half + 2][3]),
        "+f"(d[8 * Half + 3][0]), "+f"(d[8 * Half + 3][1]), "+f"(d[8 * Half + 3][2]),
        "+f"(d[8 * Half + 3][3]), "+f"(d[8 * Half + 4][0]), "+f"(d[8 * Half + 4][1]),
        "+f"(d[8 * Half + 4][2]), "+f"(d[8 * Half + 4][3]), "+f"(d[8 * Half + 5][0]),
        "+f"(d[8 * Half + 5][1]), "+f"(d[8 * Half + 5][2]), "+f"(d[8 * Half + 5][3]),
        "+f"(d[8 * Half + 6][0]), "+f"(d[8 * Half + 6][1]), "+f"(d[8 * Half + 6][2]),
        "+f"(d[8 * Half + 6][3]), "+f"(d[8 * Half + 7][0]), "+f"(d[8 * Half + 7][1]),
        "+f"(d[8 * Half + 7][2]), "+f"(d[8 * Half + 7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
      : "memory");
}

// d += a · b: 64 rows from registers (an A fragment of 16 of k a warp), 256 columns of b, which lies with its
// columns along the rows of 128 bytes; 64 columns after the other, `part` bytes apart (wide_descriptor).
GPU_DEVICE std::uint64_t wide_descriptor(SharedAddress address, unsigned part) {
  return static_cast<std::uint64_t>((address & 0x3FFFFU) >> 4) | static_cast<std::uint64_t>(part >> 4) << 16 |
         std::uint64_t{64} << 32 | std::uint64_t{1} << 62;
}
#define ORRERY_WGMMA_WIDE(name, type)                                                                       \
  GPU_DEVICE void name(float(&d)[32][4], const std::uint32_t(&a)[4], std::uint64_t b) {                     \
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" ORRERY_TEXT0             \
                 ", " ORRERY_TEXT1 ", " ORRERY_TEXT2 ", " ORRERY_TEXT3 ", " ORRERY_TEXT4 ", " ORRERY_TEXT5  \
                 ", " ORRERY_TEXT6 ", " ORRERY_TEXT7 ", " ORRERY_TEXT8 ", " ORRERY_TEXT9 ", " ORRERY_TEXT10 \
                 ", " ORRERY_TEXT11 ", " ORRERY_TEXT12 ", " ORRERY_TEXT13 ", " ORRERY_TEXT14                \
                 ", " ORRERY_TEXT15 "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 1;\n"                      \
                 : ORRERY_FRAGMENTS(d, 0), ORRERY_FRAGMENTS(d, 4), ORRERY_FRAGMENTS(d, 8),                  \
                   ORRERY_FRAGMENTS(d, 12), ORRERY_FRAGMENTS(d, 16), ORRERY_FRAGMENTS(d, 20),               \
                   ORRERY_FRAGMENTS(d, 24), ORRERY_FRAGMENTS(d, 28)                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                       \
                 : "memory");                                                                               \
  }
ORRERY_WGMMA_WIDE(wgmma_bf16_wide, "bf16")
ORRERY_WGMMA_WIDE(wgmma_f16_wide, "f16")
#undef ORRERY_WGMMA_WIDE

#endif

}  // namespace orrery::kernels
