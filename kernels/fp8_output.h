// Where a kernel puts an fp8 result, and at what scale. Shared by the kernels that quantise what they
// computed. A scale is what one unit of the stored number is worth: value ≈ fp8 · scale.
#pragma once

#include <cstdint>

namespace orrery::kernels {

enum class Fp8Scaling : std::uint8_t {
  none,    // the result stays bf16
  tensor,  // one scale, read from scales[0]: static, as checkpoints carry it; values beyond saturate
  token,   // one a row, computed: largest magnitude ÷ largest fp8 number
  group,   // one for each 128 columns of a row, computed likewise; columns are a multiple of 128
};
constexpr std::int32_t fp8_group = 128;
// Magnitudes below this do not lower a scale further: a row of zeros needs one that can be divided by.
constexpr float fp8_least_magnitude = 1e-10F;

// A NaN becomes NaN where it stands and does not count for the scale.
struct Fp8Output {
  Fp8Scaling scaling = Fp8Scaling::none;
  std::uint8_t* values = nullptr;  // e4m3 in the device's format (OCP; FNUZ on gfx942), rows × columns
  float* scales = nullptr;
  // Elements between the scales of neighbouring rows and groups: row-major (columns/128, 1) or, as some
  // GEMMs want it, column-major (1, rows).
  std::int64_t row_stride = 1;
  std::int64_t group_stride = 0;
};

}  // namespace orrery::kernels
