// Shapes that kernels get wrong: one row, primes, experts without rows, one expert with all, a context of one
// and of 131,072; each with the fills that break arithmetic: zeros, values beyond what fp8 holds, NaN.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/kernel_case.h"

namespace orrery::calibrate {

// In a fixed order. Specs that a kernel does not offer (a type, an alignment) are refused by its factory and
// reported as skipped.
std::vector<kernels::CaseSpec> check_shapes(const std::string& op);

std::span<const kernels::Fill> check_fills();
const char* to_string(kernels::Fill fill);

}  // namespace orrery::calibrate
