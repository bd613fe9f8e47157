// Where the build has no CUDA toolkit: wgmma has no emulation.
#include "kernels/grouped_gemm.h"

namespace orrery::kernels {

const char* grouped_gemm_wgmma_refusal() { return "built without a CUDA toolkit: no wgmma"; }
void grouped_gemm_wgmma(const GroupedGemm&, void*) {}

}  // namespace orrery::kernels
