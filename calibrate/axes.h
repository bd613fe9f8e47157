// The axes that operators are swept along, and in which order an axis is filled.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace orrery::calibrate {

// Rows of a GEMM: powers of two and the thirds between them.
inline constexpr std::array<std::int64_t, 24> gemm_rows{1,    2,    4,    8,    16,   24,   32,   48,
                                                        64,   96,   128,  192,  256,  384,  512,  768,
                                                        1024, 1536, 2048, 3072, 4096, 6144, 8192, 16384};
// Where captured graph sizes (vLLM: multiples of 8 to 256, of 16 above) meet tiles: just past a full tile,
// and between powers of two. Measured last.
inline constexpr std::array<std::int64_t, 14> gemm_knees{40,  56,  72,  80,  112, 136, 160,
                                                         224, 264, 272, 320, 400, 448, 528};
inline constexpr std::array<std::int64_t, 14> expert_tokens{1,   2,   4,   8,    16,   32,   64,
                                                            128, 256, 512, 1024, 2048, 4096, 8192};
// Of routed rows only, measured last, as all thirds below.
inline constexpr std::array<std::int64_t, 7> expert_thirds{96, 192, 384, 768, 1536, 3072, 6144};
inline constexpr std::array<std::int64_t, 11> decode_batches{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
// Between powers of two blocks of threads come in other numbers of waves.
inline constexpr std::array<std::int64_t, 8> decode_thirds{3, 6, 12, 24, 48, 96, 192, 384};
inline constexpr std::array<std::int64_t, 11> decode_contexts{1,    64,   256,   512,   1024,  2048,
                                                              4096, 8192, 16384, 32768, 131072};
inline constexpr std::array<std::int64_t, 11> prefill_tokens{16,   64,   128,  256,   512,  1024,
                                                             2048, 4096, 8192, 16384, 32768};
// Of prompts without a context.
inline constexpr std::array<std::int64_t, 9> prompt_thirds{48, 96, 192, 384, 768, 1536, 3072, 6144, 12288};
inline constexpr std::array<std::int64_t, 6> prefill_contexts{0, 1024, 4096, 16384, 65536, 122880};
inline constexpr std::array<std::int64_t, 5> prefill_sequences{1, 2, 4, 8, 16};
inline constexpr std::array<std::int64_t, 10> elementwise_rows{1,   8,   32,   64,   128,
                                                               256, 512, 2048, 8192, 16384};
inline constexpr std::array<std::int64_t, 16> collective_bytes{
    1024,    4096,    16384,   32768,   65536,    131072,   262144,    524288,
    1048576, 2097152, 4194304, 8388608, 16777216, 67108864, 268435456, 1073741824};
// Bytes read by a copy.
inline constexpr std::array<std::int64_t, 12> copy_bytes{4096,      65536,     1048576,    4194304,
                                                         16777216,  33554432,  67108864,   134217728,
                                                         268435456, 536870912, 1073741824, 4294967296};

// What a plan sweeps: the values above, or, to test tables on what they were not made from, values between
// them (their geometric means, where a whole number lies there; contexts of prompts keep their zero).
struct Axes {
  using Values = std::vector<std::int64_t>;
  Values gemm_rows, gemm_knees, expert_tokens, expert_thirds, decode_batches, decode_thirds, decode_contexts,
      prefill_tokens, prompt_thirds, prefill_contexts, prefill_sequences, elementwise_rows, collective_bytes,
      copy_bytes;
};
Axes grid_axes();
Axes axes_between();

// Refinement level of the i-th of n values: 0 for both ends and the middle, then halves of halves, as van der
// Corput's sequence fills an interval; values of level ≤ l split the axis into 2^(l+1) parts.
int axis_level(std::size_t i, std::size_t n);

}  // namespace orrery::calibrate
