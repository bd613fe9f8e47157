#include "calibrate/bound.h"

#include <algorithm>

#include "base/text.h"
#include "calibrate/point.h"

namespace orrery::calibrate {

namespace {

// An H200 boosts to 1980 MHz, its sheet's peak is that of 1830: 1.08. Memory does not boost.
constexpr double compute_allowance = 1.12, memory_allowance = 1.03, link_allowance = 1.05;
// No dependent kernel takes less than a fraction of the part's floor.
constexpr double floor_share = 0.3;

Result<double> matrix_us(double flops, const std::string& dtype, const HardwareProfile& h) {
  const DType math = dtype.starts_with("fp8") || dtype == "w4a8" ? DType::fp8
                     : dtype == "fp16"                           ? DType::fp16
                                                                 : DType::bf16;
  const auto rate = h.matrix_rate.find(math);
  if (rate == h.matrix_rate.end())
    return invalid_input(h.name + " has no matrix rate for " + quote(dtype) +
                         ", so nothing can have run there");
  return flops / (rate->second.value.value() * compute_allowance) * 1e6;
}

// Matrix work of one launch.
double matrix_flops(const kernels::CaseSpec& s) {
  const double nk = 2.0 * static_cast<double>(s.n * s.k);
  if (table_of(s) == "gemm") return nk * static_cast<double>(s.m);
  double flops = 0;
  if (table_of(s) == "grouped_gemm")
    for (const std::int64_t rows : s.rows) flops += nk * static_cast<double>(rows);
  const double per_pair = 4.0 * static_cast<double>(s.heads * s.head_dim);
  if (s.op == "attention_decode")
    for (const std::int64_t keys : s.contexts) flops += per_pair * static_cast<double>(keys);
  if (s.op == "attention_prefill") {
    for (const auto& [fresh, context] : s.sequences) {
      const double n = static_cast<double>(fresh);
      flops += per_pair * (n * static_cast<double>(context) + n * (n + 1) / 2);
    }
  }
  return flops;
}

}  // namespace

Result<double> least_us(const kernels::CaseSpec& s, const HardwareProfile& h) {
  const double floor = h.kernel_floor.value.value() * 1e6 * floor_share;
  if (is_probe(s.op)) return 0.0;
  if (is_collective(s.op)) {
    if (!h.link_bandwidth.present()) return invalid_input(h.name + " has no links between parts");
    // What a rank at least receives of the others.
    const double received = static_cast<double>(s.bytes) * (s.ranks - 1) / s.ranks;
    return std::max(floor, received / (h.link_bandwidth.value.value() * link_allowance) * 1e6);
  }
  const double streamed = cold_bytes(s) / (h.memory_bandwidth.value.value() * memory_allowance) * 1e6;
  const double flops = matrix_flops(s);
  if (!(flops > 0)) return std::max(floor, streamed);
  ORRERY_TRY(matrix, matrix_us(flops, s.dtype, h));
  return std::max({floor, streamed, matrix});
}

}  // namespace orrery::calibrate
