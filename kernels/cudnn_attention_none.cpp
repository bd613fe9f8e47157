// Where the build has no CUDA toolkit.
#include "kernels/cudnn_attention.h"

namespace orrery::kernels {

std::unique_ptr<CudnnAttention> plan_cudnn_attention(const CudnnAttentionShape&, std::string& why) {
  why = "built without a CUDA toolkit: no cuDNN";
  return nullptr;
}

}  // namespace orrery::kernels
