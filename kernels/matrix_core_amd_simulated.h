// The simulator's half of matrix_core_amd.h: a matrix instruction is that every lane lays down its elements
// where the tables of matrix_layout.h say they belong, the wave meets, every lane takes the results that the
// tables give it. Products are added in order of k in fp32; what the hardware keeps between them no table
// says, and the tolerance of the cases allows for it.
#pragma once

#include <array>
#include <cstring>

#include "kernels/gpu_runtime.h"
#include "kernels/matrix_layout.h"
#include "kernels/shared_memory_simulated.h"
#include "kernels/small_floats.h"

namespace orrery::kernels {

using SharedAddress = std::uintptr_t;

namespace simulated {

// The operands of a wave's instruction, [line][k]. Two halves: nobody reuses one before the meeting after
// next.
struct MatrixWave {
  std::array<float, 16 * 32> left, right;
};
inline MatrixWave& matrix_wave() {
  static thread_local std::array<std::array<MatrixWave, 2>, 1024 / GPU_WARP> waves;
  static thread_local std::array<unsigned char, 1024> half;
  return waves[threadIdx.x / GPU_WARP][half[threadIdx.x] ^= 1];
}

template <int Bits>
float decode_operand(std::uint32_t word, int element) {
  if constexpr (Bits == 16) return bf16_to_float(static_cast<std::uint16_t>(word >> (16 * element)));
  static const std::array<float, 256> values = [] {
    std::array<float, 256> all{};
    for (unsigned bits = 0; bits < 256; ++bits)
      all[bits] = fp8_to_float(static_cast<std::uint8_t>(bits), gpu_fp8_format);
    return all;
  }();
  return values[(word >> (8 * element)) & 0xFF];
}

// d += a · b; `d` are the lane's results in the order of the table.
template <const MatrixLayout& layout>
void multiply(float* d, const std::uint32_t* a, const std::uint32_t* b) {
  static_assert(layout.lanes == GPU_WARP && layout.rows * layout.k <= 16 * 32);
  constexpr int bits = layout.operand_bits, in_word = 32 / bits;
  const int lane = static_cast<int>(gpu_lane());
  MatrixWave& wave = matrix_wave();
  for (int e = 0; e < layout.each(); ++e) {
    const MatrixPlace place = layout.operand(lane, e);
    const auto at = static_cast<std::size_t>(place.line * layout.k + place.k);
    wave.left[at] = decode_operand<bits>(a[e / in_word], e % in_word);
    wave.right[at] = decode_operand<bits>(b[e / in_word], e % in_word);
  }
  static_cast<void>(simulator::exchange(0));
  for (int i = 0; i < layout.results(); ++i) {
    const ResultPlace place = layout.result(lane, i);
    const float* row = &wave.left[static_cast<std::size_t>(place.row * layout.k)];
    const float* column = &wave.right[static_cast<std::size_t>(place.column * layout.k)];
    float sum = d[i];
    for (int k = 0; k < layout.k; ++k) sum += row[k] * column[k];
    d[i] = sum;
  }
}

}  // namespace simulated

inline SharedAddress shared_address(const void* pointer) { return reinterpret_cast<SharedAddress>(pointer); }
template <class T>
T load_shared(SharedAddress from) {
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(from), sizeof value);
  return value;
}
inline std::uint32_t load_shared_16(SharedAddress from) { return load_shared<std::uint16_t>(from); }
inline std::uint32_t load_shared_8(SharedAddress from) { return load_shared<std::uint8_t>(from); }
inline void store_shared(SharedAddress to, const GpuBytes16& value) {
  std::memcpy(reinterpret_cast<void*>(to), &value, sizeof value);
}

#if ORRERY_SIMULATED_WARP == 64
inline void mfma_16x16x16_bf16(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[2]) {
  simulated::multiply<mfma_16x16x16_bf16_layout>(d, a, b);
}
inline void mfma_16x16x32_fp8(float (&d)[4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[2]) {
  simulated::multiply<mfma_16x16x32_fp8_layout>(d, a, b);
}
#else
inline void wmma_16x16x16_bf16(float (&d)[2][4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[4]) {
  simulated::multiply<wmma_16x16x16_bf16_layout>(&d[0][0], a, b);
}
inline void wmma_16x16x16_fp8(float (&d)[2][4], const std::uint32_t (&a)[2], const std::uint32_t (&b)[2]) {
  simulated::multiply<wmma_16x16x16_fp8_layout>(&d[0][0], a, b);
}
#endif

inline std::uint32_t bf16_of_e4m3(std::uint32_t two) {
  return gpu_pack_bf16(simulated::decode_operand<8>(two, 0), simulated::decode_operand<8>(two, 1));
}
inline float exp2_fast(float x) { return gpu_exp2(x); }
inline void keep_order() {}
inline std::uint32_t fresh(std::uint32_t number) { return number; }

}  // namespace orrery::kernels
