// Weights of four bits as the lanes of matrix instructions hold them. A unit is 16 features out by 128 in: 1
// KiB, chunks of 16 bytes that lie one behind the other for the lanes of a warp. Its words are what a lane
// needs for step after step of k (matrix_tile.h), each of eight values:
//   e4m3   the low halves of the bytes are one word of the operand, the high halves the next; a value is a
//          sign and a magnitude, or, where negative, its magnitude less 1
//   bf16   halves i and i + 4 are the pair of word i; a value is counted from −8
#pragma once

#include "kernels/matrix_tile.h"

namespace orrery::kernels {

constexpr int w4_unit_bytes = 1024, w4_chunks = w4_unit_bytes / 16 / GPU_WARP;

GPU_DEVICE std::int64_t w4_units(std::int32_t n) { return (std::int64_t{n} + 15) / 16; }

template <bool Wide>
struct W4Order {
  static constexpr int element_bytes = Wide ? 2 : 1;
  static constexpr int steps = 128 * element_bytes / tile_step_bytes;  // of a unit
  static constexpr int words_a_step = Wide ? 1 : 2, steps_a_chunk = steps / w4_chunks;
};

struct W4Place {
  int row, k;  // in the unit
};
// Which weight is half-byte `nibble` of word `word` of a lane.
template <bool Wide>
GPU_DEVICE W4Place w4_place(int lane, int word, int nibble) {
  using Order = W4Order<Wide>;
  const int part = Wide ? nibble % 4 : 2 * (word % 2) + nibble % 2;  // word of the operand
  const int element = Wide ? nibble / 4 : nibble / 2;
  const int step = word / Order::words_a_step;
  int row, byte;
  if constexpr (ORRERY_MATRIX_TARGET == 0) {  // as right_chunk loads it
    row = part / 2 * 8 + lane / 4;
    byte = part % 2 * 16 + lane % 4 * 4;
  } else {
    row = lane % 16;
    byte = lane / 16 * 16 + part * 4;
  }
  return {row, (step * tile_step_bytes + byte) / Order::element_bytes + element};
}

template <bool Wide>
GPU_DEVICE std::uint32_t w4_code(int value) {
  if constexpr (Wide) return static_cast<std::uint32_t>(value + 8);
  return static_cast<std::uint32_t>(value >= 0 ? value : 8 | (-value - 1));
}

// Four codes in the low halves of bytes to e4m3, each worth its value over w4_e4m3_worth.
#if ORRERY_MATRIX_TARGET == 0
// A magnitude up to 8 is its own code: below 16 the codes of e4m3 count multiples of 2⁻⁹.
constexpr float w4_e4m3_worth = 512;
GPU_DEVICE std::uint32_t w4_e4m3(std::uint32_t codes) {
  return (codes & 0x07070707U) + (codes >> 3 & 0x01010101U) * 0x81U;
}
#else
// By a table of eight bytes each for 0 … 7 and −1 … −8: nothing says that AMD's instructions keep what is
// below the least normal number. FNUZ takes the same codes for half as much.
constexpr float w4_e4m3_worth = ORRERY_MATRIX_TARGET == 942 ? 2 : 1;
GPU_DEVICE std::uint32_t w4_look_up(std::uint32_t low, std::uint32_t high, std::uint32_t indices) {
#if defined(__HIP_DEVICE_COMPILE__)
  return __builtin_amdgcn_perm(high, low, indices);
#else
  std::uint32_t found = 0;
  for (unsigned i = 0; i < 32; i += 8) {
    const std::uint32_t index = indices >> i & 7;
    found |= ((index < 4 ? low : high) >> 8 * (index % 4) & 0xFFU) << i;
  }
  return found;
#endif
}
GPU_DEVICE std::uint32_t w4_e4m3(std::uint32_t codes) {
  const std::uint32_t indices = codes & 0x07070707U, negative = (codes >> 3 & 0x01010101U) * 0xFFU;
  const std::uint32_t above = w4_look_up(0x44403800U, 0x4E4C4A48U, indices);
  const std::uint32_t below = w4_look_up(0xC8C4C0B8U, 0xD0CECCCAU, indices);
  return (above & ~negative) | (below & negative);
}
#endif

// Codes in bits 0 to 3 and 16 to 19 to two bf16.
GPU_DEVICE std::uint32_t w4_bf16(std::uint32_t codes) {
  const std::uint32_t biased = (codes & 0x000F000FU) | 0x43004300U;  // 128 + code
#if ORRERY_MATRIX_TARGET == 0 && !defined(ORRERY_SIMULATED_WARP)
  std::uint32_t values;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(values) : "r"(biased), "r"(0x3F803F80U), "r"(0xC308C308U));
  return values;
#else
  const std::uint32_t low = gpu_bit_cast<std::uint32_t>(gpu_low_bf16(biased) - 136.0F);
  const std::uint32_t high = gpu_bit_cast<std::uint32_t>(gpu_high_bf16(biased) - 136.0F);
  return (low >> 16) | (high & 0xFFFF0000U);
#endif
}

// The operand of step `step` of a chunk.
template <bool Wide>
GPU_DEVICE void w4_operand(MatrixOperand& operand, const GpuBytes16& chunk, int step) {
  if constexpr (Wide) {
    GPU_UNROLL for (int i = 0; i < 4; i++) operand.word[i] = w4_bf16(chunk.word[step] >> (4 * i));
  } else {
    GPU_UNROLL for (int i = 0; i < 4; i++) operand.word[i] =
        w4_e4m3(chunk.word[2 * step + i / 2] >> (4 * (i % 2)));
  }
}

// 16 bytes of shared memory.
GPU_DEVICE GpuBytes16 w4_chunk(SharedAddress from) {
#if ORRERY_MATRIX_TARGET != 0
  return load_shared<GpuBytes16>(from);
#elif defined(ORRERY_SIMULATED_WARP)
  return *reinterpret_cast<const GpuBytes16*>(from);
#else
  GpuBytes16 chunk;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(chunk.word[0]), "=r"(chunk.word[1]), "=r"(chunk.word[2]), "=r"(chunk.word[3])
               : "r"(from)
               : "memory");
  return chunk;
#endif
}

}  // namespace orrery::kernels
