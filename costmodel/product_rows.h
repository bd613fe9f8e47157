// Rows that a 16-bit product of the live engine is launched with: a plan of cuBLASLt is for one number of
// rows and is timed when first met, so they are made for steps of it (live/forward/forward_products.h).
#pragma once

#include <cstdint>

namespace orrery {

constexpr std::int64_t launched_product_rows(std::int64_t rows) {
  const std::int64_t step = rows <= 64 ? 8 : rows <= 256 ? 16 : rows <= 1024 ? 64 : 128;
  return (rows + step - 1) / step * step;
}

}  // namespace orrery
