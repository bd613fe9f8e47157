#include "live/forward/forward_products.h"

#include <utility>

#include "kernels/grouped_gemm.h"

namespace orrery {

ForwardProducts::ForwardProducts(kernels::DeviceMemory& memory) {
  if (!kernels::cublaslt_built()) return;
  workspace_ = memory.allocate(kernels::cublaslt_workspace_bytes);
  ready_ = workspace_ != nullptr;
}

std::int64_t ForwardProducts::launched_rows(std::int64_t rows) {
  if (!kernels::cublaslt_built()) return rows;
  const std::int64_t step = rows <= 64 ? 8 : rows <= 256 ? 16 : rows <= 1024 ? 64 : 128;
  return (rows + step - 1) / step * step;
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

void ForwardProducts::multiply(const Weight& weight, const std::uint16_t* in, std::uint16_t* out,
                               std::int32_t rows, const std::int32_t* range, kernels::Stream stream) {
  if (rows == 0) return;
  if (kernels::cublaslt_built()) {
    kernels::GemmOperands operands;
    operands.activations = in;
    operands.weights = weight.data;
    operands.out = out;
    operands.workspace = workspace_;
    kernels::LibraryGemm* product = plan(weight, launched_rows(rows), operands);
    if (product != nullptr && !product->launch(operands, stream))
      refusal_ = "cuBLASLt refused a launch (" + product->algorithm() + ")";
    return;
  }
  kernels::GroupedGemm problem;
  problem.activations = in;
  problem.weights = weight.data;
  problem.out = out;
  problem.row_offsets = range;
  problem.experts = 1;
  problem.rows = rows;
  problem.n = static_cast<std::int32_t>(weight.n);
  problem.k = static_cast<std::int32_t>(weight.k);
  kernels::grouped_gemm(problem, stream);
}

std::string ForwardProducts::take_refusal() { return std::exchange(refusal_, {}); }

}  // namespace orrery
