// The float formats against their definitions: decoding by formula, encoding against the nearest of all
// codes.
#include "kernels/small_floats.h"

#include <cmath>
#include <cstring>

#include "base/random.h"
#include "catch.h"

using namespace orrery;
using namespace orrery::kernels;

namespace {

// Nearest of the 256 codes by search; ties to the even code, saturating.
std::uint8_t nearest(float value, Fp8Format format) {
  int best = 0;
  double distance = HUGE_VAL;
  for (int code = 0; code < 128; ++code) {
    const double v = fp8_to_float(static_cast<std::uint8_t>(code), format);
    if (std::isnan(v)) continue;
    const double d = std::fabs(std::fabs(static_cast<double>(value)) - v);
    if (d < distance || (d == distance && code % 2 == 0)) best = code, distance = d;
  }
  const bool negative = std::signbit(value) && !(format == Fp8Format::fnuz && best == 0);
  return static_cast<std::uint8_t>(best | (negative ? 0x80 : 0));
}

}  // namespace

TEST_CASE("fp8 decodes the values that the formats define", "[kernels]") {
  CHECK(fp8_to_float(0x7E, Fp8Format::ocp) == 448);
  CHECK(std::isnan(fp8_to_float(0x7F, Fp8Format::ocp)));
  CHECK(std::isnan(fp8_to_float(0xFF, Fp8Format::ocp)));
  CHECK(fp8_to_float(0x38, Fp8Format::ocp) == 1);
  CHECK(fp8_to_float(0x01, Fp8Format::ocp) == std::ldexp(1.0F, -9));
  CHECK(fp8_to_float(0x7F, Fp8Format::fnuz) == 240);
  CHECK(std::isnan(fp8_to_float(0x80, Fp8Format::fnuz)));
  CHECK(fp8_to_float(0x40, Fp8Format::fnuz) == 1);
  CHECK(fp8_to_float(0x01, Fp8Format::fnuz) == std::ldexp(1.0F, -10));
}

TEST_CASE("fp8 encodes to the nearest code", "[kernels]") {
  RandomStream random(1, RandomPurpose::property_test);
  for (const Fp8Format format : {Fp8Format::ocp, Fp8Format::fnuz}) {
    for (int code = 0; code < 256; ++code) {  // exact values and the ties between neighbours
      const float value = fp8_to_float(static_cast<std::uint8_t>(code), format);
      const float next = fp8_to_float(static_cast<std::uint8_t>(code + 1), format);
      if (std::isnan(value)) continue;
      CHECK(float_to_fp8(value, format) == nearest(value, format));
      if (!std::isnan(next))
        CHECK(float_to_fp8((value + next) / 2, format) == nearest((value + next) / 2, format));
    }
    for (int i = 0; i < 20000; ++i) {
      const float value =
          std::ldexp(static_cast<float>(random.normal()), static_cast<int>(random.below(24)) - 14);
      if (float_to_fp8(value, format) != nearest(value, format)) FAIL("value " << value);
    }
    CHECK(fp8_to_float(float_to_fp8(1e30F, format), format) == fp8_largest(format));
    CHECK(fp8_to_float(float_to_fp8(-HUGE_VALF, format), format) == -fp8_largest(format));
    CHECK(std::isnan(fp8_to_float(float_to_fp8(std::nanf(""), format), format)));
  }
}

TEST_CASE("an OCP code becomes the FNUZ code of half its value", "[kernels]") {
  for (int code = 0; code < 256; ++code) {
    const auto bits = static_cast<std::uint8_t>(code);
    const float ocp = fp8_to_float(bits, Fp8Format::ocp);
    const float fnuz = fp8_to_float(fnuz_half_of_ocp(bits), Fp8Format::fnuz);
    CAPTURE(code);
    CHECK((std::isnan(ocp) ? std::isnan(fnuz) : 2 * fnuz == ocp));
  }
  CHECK(fnuz_half_of_ocp(0x80) == 0);  // −0: FNUZ reads the bits as NaN
}

TEST_CASE("bf16 rounds to nearest even and keeps NaN", "[kernels]") {
  CHECK(float_to_bf16(1.0F) == 0x3F80);
  CHECK(float_to_bf16(1.0F + std::ldexp(1.0F, -8)) == 0x3F80);  // tie to even
  CHECK(float_to_bf16(1.0F + 3 * std::ldexp(1.0F, -8)) == 0x3F82);
  CHECK(float_to_bf16(1.0F + 1.01F * std::ldexp(1.0F, -8)) == 0x3F81);
  CHECK(float_to_bf16(-3e38F * 2) == 0xFF80);
  CHECK(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
  float tricky;  // a NaN whose payload lies in the bits that are cut off
  const std::uint32_t bits = 0x7F800001;
  std::memcpy(&tricky, &bits, sizeof tricky);
  CHECK(std::isnan(bf16_to_float(float_to_bf16(tricky))));
}
