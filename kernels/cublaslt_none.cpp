// Where the build has no CUDA toolkit.
#include "kernels/cublaslt.h"

namespace orrery::kernels {

std::unique_ptr<CublasLtGemm> plan_cublaslt_gemm(const GemmShape&, const GemmOperands&, std::string& why) {
  why = "built without a CUDA toolkit: no cuBLASLt";
  return nullptr;
}

}  // namespace orrery::kernels
