// A row that a kernel normed, bf16 or quantised, against its reference.
#pragma once

#include <vector>

#include "kernels/fp8_output.h"
#include "kernels/reference.h"

namespace orrery::kernels {

struct NormedOutput {
  const std::uint16_t* out = nullptr;  // unused when quantised
  const Fp8Output& quantized;
};
void compare_normed_row(Comparison& comparison, DeviceMemory& memory, const NormedOutput& output,
                        std::int64_t row, const std::vector<double>& expected);

// A row that is the sum of `terms`, as it was written; returns that, which is the norm's input.
std::vector<double> compare_sum(Comparison& comparison, std::int64_t row,
                                const std::vector<std::vector<double>>& terms, std::vector<double> written);

}  // namespace orrery::kernels
