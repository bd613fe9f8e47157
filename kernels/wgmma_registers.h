// wgmma whose left operand is in registers (sm_90a; wgmma.h says how accumulators lie): d = a · bᵀ over 32
// bytes of k, + d when `add` is not 0; 64 rows of a, Columns rows of b. A warp's 16 rows of a lie in its
// lanes as tensor_core.h has them.
#pragma once

#include "kernels/wgmma.h"

namespace orrery::kernels {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <bool Bf16, int Columns>
struct WgmmaFromRegisters;

#define ORRERY_WGMMA_ONE(bf16, columns, shape, flags, text, left, right, predicate, ...)                   \
  template <>                                                                                              \
  struct WgmmaFromRegisters<bf16, columns> {                                                               \
    GPU_DEVICE static void multiply(float (&d)[columns / 2], const std::uint32_t (&a)[4], std::uint64_t b, \
                                    int add) {                                                             \
      asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " predicate                                       \
                   ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns shape " {" text "}, {" left          \
                   "}, " right ", add, " flags ";\n}\n"                                                    \
                   : __VA_ARGS__                                                                           \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add)                          \
                   : "memory");                                                                            \
    }                                                                                                      \
  }
#define ORRERY_WGMMA(columns, text, left, right, predicate, ...)                                            \
  ORRERY_WGMMA_ONE(false, columns, "k32.f32.e4m3.e4m3", "1, 1", text, left, right, predicate, __VA_ARGS__); \
  ORRERY_WGMMA_ONE(true, columns, "k16.f32.bf16.bf16", "1, 1, 0", text, left, right, predicate, __VA_ARGS__)
ORRERY_WGMMA(8, "%0, %1, %2, %3", "%4, %5, %6, %7", "%8", "%9", "+f"(d[0]), "+f"(d[1]), "+f"(d[2]),
             "+f"(d[3]));
ORRERY_WGMMA(16, ORRERY_TEXT0, "%8, %9, %10, %11", "%12", "%13", ORRERY_EIGHT(d, 0));
ORRERY_WGMMA(32, ORRERY_TEXT0 ", " ORRERY_TEXT1, "%16, %17, %18, %19", "%20", "%21", ORRERY_EIGHT(d, 0),
             ORRERY_EIGHT(d, 8));
ORRERY_WGMMA(64, ORRERY_TEXT0 ", " ORRERY_TEXT1 ", " ORRERY_TEXT2 ", " ORRERY_TEXT3, "%32, %33, %34, %35",
             "%36", "%37", ORRERY_EIGHT(d, 0), ORRERY_EIGHT(d, 8), ORRERY_EIGHT(d, 16), ORRERY_EIGHT(d, 24));
ORRERY_WGMMA(128,
             ORRERY_TEXT0 ", " ORRERY_TEXT1 ", " ORRERY_TEXT2 ", " ORRERY_TEXT3 ", " ORRERY_TEXT4
                          ", " ORRERY_TEXT5 ", " ORRERY_TEXT6 ", " ORRERY_TEXT7,
             "%64, %65, %66, %67", "%68", "%69", ORRERY_EIGHT(d, 0), ORRERY_EIGHT(d, 8), ORRERY_EIGHT(d, 16),
             ORRERY_EIGHT(d, 24), ORRERY_EIGHT(d, 32), ORRERY_EIGHT(d, 40), ORRERY_EIGHT(d, 48),
             ORRERY_EIGHT(d, 56));
#undef ORRERY_WGMMA
#undef ORRERY_WGMMA_ONE

#endif

}  // namespace orrery::kernels
