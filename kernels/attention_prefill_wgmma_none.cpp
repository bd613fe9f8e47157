// Where the build has no CUDA toolkit: wgmma has no emulation.
#include "kernels/attention_prefill.h"

namespace orrery::kernels {

const char* attention_prefill_wgmma_refusal() { return "built without a CUDA toolkit: no wgmma"; }
void attention_prefill_wgmma(const AttentionPrefill&, void*) {}

}  // namespace orrery::kernels
