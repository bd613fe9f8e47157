// A part as rates: data sheet × efficiency of a kernel class, in operations and bytes per nanosecond.
// The rules that turn work into time are here and nowhere else.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/hardware.h"
#include "costmodel/kernel_laws.h"
#include "costmodel/kernel_set.h"
#include "costmodel/operator.h"

namespace orrery {

class Roofline {
 public:
  // Errors name the figure that the profile lacks and what needs it.
  // `kernels`: tables of the engine's kernels on this part, or null: then every price is the roofline's.
  static Result<Roofline> create(const HardwareProfile& hardware,
                                 std::shared_ptr<const KernelSet> kernels = nullptr);
  const KernelSet* kernels() const { return kernels_.get(); }
  const PartRates& rates() const { return rates_; }
  const std::string& part() const { return part_; }
  // Laws of the engine's kernels on this part, or null. They come before tables.
  const KernelLaws* laws() const { return laws_ ? &*laws_ : nullptr; }
  void set_laws(const KernelLaws& laws);

  // False when the part has no such instruction; then no operator may be made for it.
  bool has_math(DType dtype) const { return matrix_[static_cast<std::size_t>(dtype)] > 0; }
  double matrix_rate(DType dtype) const;  // operations/ns at peak, whole device; has_math(dtype)
  double efficiency(KernelClass kernel_class) const {
    return efficiency_[static_cast<std::size_t>(kernel_class)];
  }
  double error(KernelClass kernel_class) const { return error_[static_cast<std::size_t>(kernel_class)]; }
  bool has(KernelClass kernel_class) const { return efficiency(kernel_class) > 0; }
  KernelClass gemm_class(const WeightFormat& format) const;
  KernelClass grouped_class(const WeightFormat& format) const;

  double bandwidth() const { return bandwidth_; }  // bytes/ns, data sheet
  double kernel_floor_ns() const { return floor_ns_; }
  std::int64_t units() const { return units_; }  // SMs or CUs
  double link_rate(std::int32_t ranks) const;    // bytes/ns that one GPU sends to ranks − 1 peers, achieved
  double link_efficiency() const { return link_efficiency_; }
  double collective_latency_ns() const { return collective_latency_ns_; }
  // Of a small all-reduce of so many GPUs by a kernel of the engine; of the vendor's library.
  double small_all_reduce_ns(std::int32_t ranks) const;
  double library_latency_ns(std::int32_t ranks) const;
  bool meshed() const { return pair_rate_ < link_rate_; }  // every GPU has links of its own to each peer
  bool has_link() const { return link_rate_ > 0; }
  bool has_marlin() const { return has_marlin_; }  // the engines' kernel for four-bit weights: NVIDIA's parts

  // Activations: written by one kernel and read by the next. A working set within half of the last cache
  // (the other half holds the weights that stream past) never reaches HBM; it moves at `cache_speedup` times
  // the HBM rate. Otherwise it costs HBM bytes.
  bool stays_in_cache(double working_set) const { return working_set <= cache_bytes_; }
  // Nanoseconds to move `bytes` of activations and `hbm_bytes` that must come from memory, as one stream.
  double stream_ns(double activation_bytes, bool cached, double hbm_bytes, KernelClass kernel_class) const;

  // Nanoseconds of matrix work of an m×n×k product on tiles: the best tile of a small set, split along k
  // where tiles do not fill the device, a whole number of waves (gemm_tiles in roofline.cpp).
  double tiled_ns(std::int64_t m, std::int64_t n, std::int64_t k, DType math, double efficiency) const;
  // The same for groups of rows whose row tiles of `block_m` are already counted.
  // Columns of a tile: 128, as vLLM's Triton kernel has them without a tuned file.
  double grouped_ns(double row_tiles, std::int64_t block_m, std::int64_t n, std::int64_t k, DType math,
                    double efficiency, std::int64_t block_n = 128) const;

 private:
  std::array<double, static_cast<std::size_t>(DType::count)> matrix_{};
  std::array<double, static_cast<std::size_t>(KernelClass::count)> efficiency_{};
  std::array<double, static_cast<std::size_t>(KernelClass::count)> error_{};
  double bandwidth_ = 0, cache_bytes_ = 0, floor_ns_ = 0, link_rate_ = 0, pair_rate_ = 0,
         link_efficiency_ = 0;
  double collective_latency_ns_ = 0, eight_ranks_latency_ = 1, library_latency_ = 0;  // ratios; 0 = not known
  std::int64_t units_ = 0;
  bool has_marlin_ = false;
  PartRates rates_;
  std::string part_;
  std::shared_ptr<const KernelSet> kernels_;
  std::optional<KernelLaws> laws_;
};

// Starts of kernels that load tiles through a pipeline before they produce anything, in units of the part's
// kernel floor. Derived from published kernel timings on an H200 with a floor of 1.3 µs
// (../shared/data/aiconfigurator, vLLM 0.24.0 tables; H100 and H20-3e give the same within 5 %, L40S the same
// ratio): dense products with m ≤ 8 fit 3.9 µs + weights/4.07 TB/s over 8–600 MB (H100 3.7, H20-3e 3.9 µs);
constexpr double gemm_start = 3.0;
// two Triton expert products of Qwen3-30B-A3B in bf16 at one token: 40.3 µs − 18 µs of weights − 4 small
// kernels;
constexpr double grouped_gemm_start = 6.0;
// FlashAttention 3 with one key and one query: 10.1 µs with the KV write;
constexpr double attention_start = 6.5;
// every further wave of decode tiles: 24.0 and 67.3 µs for 64 and 256 sequences of one key, 8 KV heads, 132
// SMs.
constexpr double attention_wave = 2.8;

// An activation that stays in L2 or Infinity Cache moves at least this much faster than from HBM. Measured
// ratios: H200 9–10 of 4.8 TB/s, MI300X 11.9 of 5.3, L40 5.2 of 0.86 (hardware.md §3); the least of them.
constexpr double cache_speedup = 2.0;

}  // namespace orrery
