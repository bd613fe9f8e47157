// Where the build has no CUDA toolkit: wgmma has no emulation.
#include "kernels/mla_decode.h"

namespace orrery::kernels {

const char* mla_decode_wgmma_refusal() { return "built without a CUDA toolkit: no wgmma"; }
void mla_decode_wgmma(const MlaDecode&, void*) {}

}  // namespace orrery::kernels
