// Products of the forward pass. bf16: through cuBLASLt where the build has it, by our grouped kernel with one
// group elsewhere (the CPU simulator). 8 bits with scales by block, and experts: our kernels, on wgmma where
// the device has it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "kernels/cublaslt.h"
#include "kernels/kernel_case.h"
#include "live/forward/forward_weights.h"

namespace orrery {

// What a product reads: bf16, or e4m3 with a scale for a row and 128 features: of (row, block) at
// row + block · scale_stride.
struct ActivationRows {
  const void* data = nullptr;
  const float* scales = nullptr;
  std::int64_t scale_stride = 0;
};

class ForwardProducts {
 public:
  explicit ForwardProducts(kernels::DeviceMemory& memory);
  bool ready() const { return ready_; }  // false: no room

  // Rows that a product of so many is launched with (costmodel/product_rows.h); what is beyond the rows asked
  // for is scratch. Buffers must hold as many.
  static std::int64_t launched_rows(std::int64_t rows);

  // out[rows][n] = in[rows][k] · weightᵀ. `range` on the device: 0, rows.
  void multiply(const Weight& weight, const ActivationRows& in, std::uint16_t* out, std::int32_t rows,
                const std::int32_t* range, kernels::Stream stream);
  // The same of rows sorted by expert: offsets[experts + 1] on the device, rows = offsets[experts]. Scales of
  // activations lie row by row. Where `rows` is a bound, `likely` is how many there are on average: tiles are
  // as high as those ask for.
  void multiply_experts(const Weight& weight, const ActivationRows& in, std::uint16_t* out, std::int32_t rows,
                        const std::int32_t* offsets, kernels::Stream stream, std::int32_t likely = 0);
  std::int64_t planned() const { return static_cast<std::int64_t>(plans_.size()); }
  std::string take_refusal();  // what the library said since the last call; empty: it took everything

 private:
  void multiply_blocks(const Weight& weight, const ActivationRows& in, std::uint16_t* out, std::int32_t rows,
                       kernels::Stream stream);
  kernels::LibraryGemm* plan(const Weight& weight, std::int64_t rows, const kernels::GemmOperands& trial);

  bool ready_ = true;
  bool block_wgmma_ = false, grouped_wgmma_ = false;  // what the device has
  void* workspace_ = nullptr;
  void* block_sums_ = nullptr;  // of block products whose last tiles are made in parts
  std::int64_t block_sum_bytes_ = 0;
  std::string refusal_;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::unique_ptr<kernels::LibraryGemm>>
      plans_;
};

}  // namespace orrery
