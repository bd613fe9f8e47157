// Dense GEMM through hipBLASLt, loaded at run time where ROCm 6 or 7 is: out = activations · weightsᵀ, laid
// out as cuBLASLt is asked (kernels/cublaslt.h). Written from hipBLASLt's header and tested on a library that
// stands in for it (tests/kernels/fake_rocm.cpp); no AMD part has run it.
#pragma once

#include <memory>
#include <string>

#include "kernels/cublaslt.h"
#include "kernels/vendor_library.h"

namespace orrery::kernels {

// hipBLASLt counts versions as major · 100,000 + minor · 100 + patch. 0.6 came with ROCm 6.0, which gave its
// functions the types of hip/library_types.h and of hipblas-common.
constexpr int least_hipblaslt_version = 600;

// Takes the library's first candidate. No scales, or one for each operand; scales by channel have changed
// their attribute between versions and blocks have none: both are refused. `fnuz`: 8-bit operands are
// gfx942's. Null with a reason.
std::unique_ptr<LibraryGemm> plan_hipblaslt_gemm(const GemmShape& shape, bool fnuz, std::string& why);

// The same out of a library of the caller's: a handle for each call.
std::unique_ptr<LibraryGemm> plan_hipblaslt_gemm(const VendorLibrary& library, const GemmShape& shape,
                                                 bool fnuz, std::string& why);

}  // namespace orrery::kernels
