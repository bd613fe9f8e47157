// bf16 and the two e4m3 formats of 8-bit floats, on the host: what references decode device memory with, and
// what the CPU simulator converts with. Rounding is to nearest, ties to even; fp8 saturates, NaN stays NaN.
#pragma once

#include <cstdint>

namespace orrery::kernels {

// OCP e4m3fn (NVIDIA, gfx1201): bias 7, largest 448, NaN 0x7F and 0xFF. FNUZ (gfx942): bias 8, largest 240,
// no negative zero, the only NaN is 0x80. The same bits mean half as much in FNUZ.
enum class Fp8Format : std::uint8_t { ocp, fnuz };

float bf16_to_float(std::uint16_t bits);
std::uint16_t float_to_bf16(float value);

float fp8_to_float(std::uint8_t bits, Fp8Format format);
std::uint8_t float_to_fp8(float value, Fp8Format format);

// The FNUZ code that means half of what an OCP code means, exactly: a checkpoint's weights on gfx942, whose
// scale is doubled for it. The bits stay, but for OCP's negative zero, which FNUZ has not, and its NaNs.
std::uint8_t fnuz_half_of_ocp(std::uint8_t bits);

constexpr float fp8_largest(Fp8Format format) { return format == Fp8Format::ocp ? 448.0F : 240.0F; }
// Distance of neighbours in the lowest binade: 2⁻⁹ and 2⁻¹⁰.
constexpr double fp8_smallest(Fp8Format format) {
  return format == Fp8Format::ocp ? 0.001953125 : 0.0009765625;
}

}  // namespace orrery::kernels
