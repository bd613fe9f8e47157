// wgmma of e4m3 for every width that the block-scaled products use (sm_90a; wgmma.h says how accumulators
// lie). d = a · bᵀ over 32 of k, + d when `add` is not 0: 64 rows of a, Columns rows of b, Columns / 2
// accumulators a thread.
#pragma once

#include "kernels/wgmma.h"

namespace orrery::kernels {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int Columns>
struct WgmmaE4m3;

#define ORRERY_WGMMA_E4M3(columns, text, a_b, predicate, ...)                                              \
  template <>                                                                                              \
  struct WgmmaE4m3<columns> {                                                                              \
    GPU_DEVICE static void multiply(float (&d)[columns / 2], std::uint64_t a, std::uint64_t b, int add) {  \
      asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " predicate                                       \
                   ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns "k32.f32.e4m3.e4m3 {" text "}, " a_b \
                   ", add, 1, 1;\n}\n"                                                                     \
                   : __VA_ARGS__                                                                           \
                   : "l"(a), "l"(b), "r"(add)                                                              \
                   : "memory");                                                                            \
    }                                                                                                      \
  }
ORRERY_WGMMA_E4M3(16, ORRERY_TEXT0, "%8, %9", "%10", ORRERY_EIGHT(d, 0));
ORRERY_WGMMA_E4M3(32, ORRERY_TEXT0 ", " ORRERY_TEXT1, "%16, %17", "%18", ORRERY_EIGHT(d, 0),
                  ORRERY_EIGHT(d, 8));
ORRERY_WGMMA_E4M3(64, ORRERY_TEXT0 ", " ORRERY_TEXT1 ", " ORRERY_TEXT2 ", " ORRERY_TEXT3, "%32, %33", "%34",
                  ORRERY_EIGHT(d, 0), ORRERY_EIGHT(d, 8), ORRERY_EIGHT(d, 16), ORRERY_EIGHT(d, 24));
ORRERY_WGMMA_E4M3(128,
                  ORRERY_TEXT0 ", " ORRERY_TEXT1 ", " ORRERY_TEXT2 ", " ORRERY_TEXT3 ", " ORRERY_TEXT4
                               ", " ORRERY_TEXT5 ", " ORRERY_TEXT6 ", " ORRERY_TEXT7,
                  "%64, %65", "%66", ORRERY_EIGHT(d, 0), ORRERY_EIGHT(d, 8), ORRERY_EIGHT(d, 16),
                  ORRERY_EIGHT(d, 24), ORRERY_EIGHT(d, 32), ORRERY_EIGHT(d, 40), ORRERY_EIGHT(d, 48),
                  ORRERY_EIGHT(d, 56));
ORRERY_WGMMA_E4M3(192,
                  ORRERY_TEXT0 ", " ORRERY_TEXT1 ", " ORRERY_TEXT2 ", " ORRERY_TEXT3 ", " ORRERY_TEXT4
                               ", " ORRERY_TEXT5 ", " ORRERY_TEXT6 ", " ORRERY_TEXT7 ", " ORRERY_TEXT8
                               ", " ORRERY_TEXT9 ", " ORRERY_TEXT10 ", " ORRERY_TEXT11,
                  "%96, %97", "%98", ORRERY_EIGHT(d, 0), ORRERY_EIGHT(d, 8), ORRERY_EIGHT(d, 16),
                  ORRERY_EIGHT(d, 24), ORRERY_EIGHT(d, 32), ORRERY_EIGHT(d, 40), ORRERY_EIGHT(d, 48),
                  ORRERY_EIGHT(d, 56), ORRERY_EIGHT(d, 64), ORRERY_EIGHT(d, 72), ORRERY_EIGHT(d, 80),
                  ORRERY_EIGHT(d, 88));
#undef ORRERY_WGMMA_E4M3

#endif

}  // namespace orrery::kernels
