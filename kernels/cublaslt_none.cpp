// Where the build has no CUDA toolkit.
#include "kernels/cublaslt.h"

namespace orrery::kernels {

bool cublaslt_built() { return false; }

std::unique_ptr<LibraryGemm> plan_cublaslt_gemm(const GemmShape&, const GemmOperands&, std::string& why) {
  why = "built without a CUDA toolkit: no cuBLASLt";
  return nullptr;
}

}  // namespace orrery::kernels
