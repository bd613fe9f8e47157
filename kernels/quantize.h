// Activations from bf16 to fp8 before a quantised matrix product.
#pragma once

#include "kernels/fp8_output.h"

namespace orrery::kernels {

struct QuantizeLaunch {
  const std::uint16_t* x = nullptr;  // bf16, rows × columns
  Fp8Output out;                     // rows × columns
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // multiple of 8; at most norm_most_columns when scaled per token
  // On the device: rows from there on are left alone. Null: all are in use. Not with a scale per token.
  const std::int32_t* used_rows = nullptr;
};

void launch_quantize(const QuantizeLaunch& launch, void* stream);

}  // namespace orrery::kernels
