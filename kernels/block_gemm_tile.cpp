// Which tiles block_gemm_wgmma takes when nobody says; what the search on an H200 found best is the reason
// (reports/results/kernels_h200_fp8_block.md).
#include <algorithm>

#include "kernels/block_gemm.h"

namespace orrery::kernels {

namespace {

std::int64_t over(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

BlockGemmTile block_gemm_tile(const BlockGemm& p, std::int32_t compute_units) {
  const std::int64_t experts = p.layout == BlockGemmExperts::none ? 1 : p.experts;
  const std::int64_t each = p.rows_each > 0 ? p.rows_each : over(p.rows, std::max<std::int64_t>(experts, 1));
  if (each <= 64) {
    const std::int32_t rows = each <= 16 ? 16 : each <= 32 ? 32 : 64;
    const bool narrow = over(p.n, 128) * experts < 2 * std::int64_t{compute_units};
    return {rows, narrow ? 64 : 128, true, narrow ? 12 : 8, SharedCopies::none};
  }
  if (each <= 128) return {128, 128, false, 5, SharedCopies::none};
  if (p.by_channel) return {128, 256, false, 4, SharedCopies::weights};
  return {256, 128, false, 4, SharedCopies::activations};
}

}  // namespace orrery::kernels
