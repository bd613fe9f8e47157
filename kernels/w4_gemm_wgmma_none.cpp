// Where the build has no CUDA toolkit: wgmma has no emulation.
#include "kernels/w4_gemm.h"

namespace orrery::kernels {

const char* w4_gemm_wgmma_refusal() { return "built without a CUDA toolkit: no wgmma"; }
void w4_gemm_wgmma(const W4Gemm&, void*) {}

}  // namespace orrery::kernels
