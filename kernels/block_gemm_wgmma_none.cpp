// Where the build has no CUDA toolkit: wgmma has no emulation.
#include "kernels/block_gemm.h"

namespace orrery::kernels {

std::span<const BlockGemmTile> block_gemm_tiles() { return {}; }
const char* block_gemm_wgmma_refusal() { return "built without a CUDA toolkit: no wgmma"; }
void block_gemm_wgmma(const BlockGemm&, void*) {}
const char* block_gemm_wgmma(const BlockGemm&, const BlockGemmTile&, void*) {
  return block_gemm_wgmma_refusal();
}

}  // namespace orrery::kernels
