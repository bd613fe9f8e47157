#include "kernels/small_floats.h"

#include <cmath>
#include <cstring>

namespace orrery::kernels {

float bf16_to_float(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

std::uint16_t float_to_bf16(float value) {
  if (std::isnan(value)) return 0x7FFF;
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float fp8_to_float(std::uint8_t bits, Fp8Format format) {
  const bool fnuz = format == Fp8Format::fnuz;
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  if (fnuz ? bits == 0x80 : (bits & 0x7F) == 0x7F) return std::nanf("");
  const int bias = fnuz ? 8 : 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), 1 - bias - 3)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - bias - 3);
  return bits & 0x80 ? -magnitude : magnitude;
}

std::uint8_t fnuz_half_of_ocp(std::uint8_t bits) {
  if ((bits & 0x7F) == 0x7F) return 0x80;
  return bits == 0x80 ? 0 : bits;
}

std::uint8_t float_to_fp8(float value, Fp8Format format) {
  const bool fnuz = format == Fp8Format::fnuz;
  if (std::isnan(value)) return fnuz ? 0x80 : 0x7F;
  const int bias = fnuz ? 8 : 7;
  const float magnitude = std::fmin(std::fabs(value), fp8_largest(format));
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  int unit = exponent - 4;           // of the last of four significant bits
  if (unit < 1 - bias - 3) unit = 1 - bias - 3;
  int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  if (steps == 16) steps = 8, ++unit;
  const int code = steps < 8 ? steps : ((unit + bias + 3) << 3) | (steps - 8);
  const int sign = std::signbit(value) && !(fnuz && code == 0) ? 0x80 : 0;
  return static_cast<std::uint8_t>(sign | code);
}

}  // namespace orrery::kernels
