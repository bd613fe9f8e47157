#include "live/forward/forward_products.h"

#include <algorithm>
#include <utility>

#include "costmodel/product_rows.h"
#include "kernels/attention_decode.h"
#include "kernels/block_gemm.h"
#include "kernels/grouped_gemm.h"

namespace orrery {

ForwardProducts::ForwardProducts(kernels::DeviceMemory& memory)
    : block_wgmma_(kernels::block_gemm_wgmma_refusal() == nullptr),
      grouped_wgmma_(kernels::grouped_gemm_wgmma_refusal() == nullptr) {
  if (block_wgmma_) {
    const std::int64_t bytes = kernels::block_gemm_workspace(kernels::attention_compute_units());
    block_sums_ = memory.allocate(static_cast<std::size_t>(bytes));
    if (block_sums_ != nullptr) {
      memory.fill(block_sums_, 0, kernels::block_gemm_counter_bytes);
      block_sum_bytes_ = bytes;
    }
  }
  if (!kernels::cublaslt_built()) return;
  workspace_ = memory.allocate(kernels::cublaslt_workspace_bytes);
  ready_ = workspace_ != nullptr;
}

std::int64_t ForwardProducts::launched_rows(std::int64_t rows) {
  return kernels::cublaslt_built() ? launched_product_rows(rows) : rows;
}

kernels::LibraryGemm* ForwardProducts::plan(const Weight& weight, std::int64_t rows,
                                            const kernels::GemmOperands& trial) {
  auto& planned = plans_[{rows, weight.n, weight.k}];
  if (planned == nullptr) {
    std::string why;
    planned = kernels::plan_cublaslt_gemm({kernels::GemmScaling::none, rows, weight.n, weight.k}, trial, why);
    if (planned == nullptr) refusal_ = why;
  }
  return planned.get();
}

void ForwardProducts::multiply(const Weight& weight, const ActivationRows& in, std::uint16_t* out,
                               std::int32_t rows, const std::int32_t* range, kernels::Stream stream) {
  if (rows == 0) return;
  if (weight.fp8()) return multiply_blocks(weight, in, out, rows, stream);
  if (!kernels::cublaslt_built()) return multiply_experts(weight, in, out, rows, range, stream);
  kernels::GemmOperands operands;
  operands.activations = in.data;
  operands.weights = weight.data;
  operands.out = out;
  operands.workspace = workspace_;
  kernels::LibraryGemm* product = plan(weight, launched_rows(rows), operands);
  if (product != nullptr && !product->launch(operands, stream))
    refusal_ = "cuBLASLt refused a launch (" + product->algorithm() + ")";
}

void ForwardProducts::multiply_blocks(const Weight& weight, const ActivationRows& in, std::uint16_t* out,
                                      std::int32_t rows, kernels::Stream stream) {
  kernels::BlockGemm problem;
  problem.activations = in.data;
  problem.activation_scales = in.scales;
  problem.weights = weight.data;
  problem.weight_scales = weight.scales;
  problem.out = out;
  problem.rows = rows;
  problem.n = static_cast<std::int32_t>(weight.n);
  problem.k = static_cast<std::int32_t>(weight.k);
  problem.scale_row = 1;
  problem.scale_block = static_cast<std::int32_t>(in.scale_stride);
  problem.weight_blocks = (problem.k + 127) / 128;
  problem.workspace = block_sums_;
  problem.workspace_bytes = block_sum_bytes_;
  block_wgmma_ ? kernels::block_gemm_wgmma(problem, stream) : kernels::block_gemm(problem, stream);
}

void ForwardProducts::multiply_experts(const Weight& weight, const ActivationRows& in, std::uint16_t* out,
                                       std::int32_t rows, const std::int32_t* offsets, kernels::Stream stream,
                                       std::int32_t likely) {
  kernels::GroupedGemm problem;
  problem.activations = in.data;
  problem.activation_scales = in.scales;
  problem.weights = weight.data;
  problem.weight_scales = weight.scales;
  problem.out = out;
  problem.row_offsets = offsets;
  problem.experts = static_cast<std::int32_t>(weight.experts);
  problem.rows = rows;
  problem.n = static_cast<std::int32_t>(weight.n);
  problem.k = static_cast<std::int32_t>(weight.k);
  problem.fp8_block = weight.fp8();
  if (likely == 0) likely = rows;
  problem.tile_rows = kernels::grouped_gemm_tile_rows(likely, std::min<std::int64_t>(weight.experts, likely));
  grouped_wgmma_ ? kernels::grouped_gemm_wgmma(problem, stream) : kernels::grouped_gemm(problem, stream);
}

std::string ForwardProducts::take_refusal() { return std::exchange(refusal_, {}); }

}  // namespace orrery
