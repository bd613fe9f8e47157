// Dense GEMM through cuBLASLt: out = activations · weightsᵀ, loaded at run time. cuBLASLt's matrices are
// column-major, so it is asked for outᵀ (n×m) = op(weights) · activationsᵀ with the first operand transposed:
// the one layout that its fp8 kernels take.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace orrery::kernels {

enum class GemmScaling : std::uint8_t {
  none,     // bf16
  tensor,   // e4m3; one fp32 scale for each operand
  channel,  // e4m3; activation_scales[m], weight_scales[n]
  block,    // e4m3; activation_scales[⌈k/128⌉][m], weight_scales[⌈n/128⌉][gemm_padded_blocks(k)]
};

// Rows of weight scales are padded to multiples of four blocks: what
// CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F asks for.
constexpr std::int64_t gemm_padded_blocks(std::int64_t k) { return ((k + 127) / 128 + 3) / 4 * 4; }

struct GemmShape {
  GemmScaling scaling = GemmScaling::none;
  std::int64_t m = 0, n = 0, k = 0;
};

struct GemmOperands {
  const void* activations = nullptr;  // [m][k]
  const void* weights = nullptr;      // [n][k]
  void* out = nullptr;                // [m][n] bf16
  const float* activation_scales = nullptr;
  const float* weight_scales = nullptr;
  void* workspace = nullptr;  // cublaslt_workspace_bytes
};
constexpr std::size_t cublaslt_workspace_bytes = 64ULL << 20;

// A product as a library has planned it; hipBLASLt's has the same layout (kernels/hipblaslt.h).
class LibraryGemm {
 public:
  virtual ~LibraryGemm() = default;
  // Launches only; may be captured. False when the library refuses.
  virtual bool launch(const GemmOperands& operands, void* stream) = 0;
  // The algorithm that was kept, for tables: "algo 67, tile 20, stages 35, split 1, of 4".
  virtual const std::string& algorithm() const = 0;
};

// Asks for the best candidates by heuristic, times each on `trial` (all of them valid memory; out is written)
// and keeps the fastest: once per shape in a process and device. Null with a reason when the library is
// missing or offers nothing for the shape on this device.
std::unique_ptr<LibraryGemm> plan_cublaslt_gemm(const GemmShape& shape, const GemmOperands& trial,
                                                std::string& why);
bool cublaslt_built();  // whether this build has a toolkit to call it with

}  // namespace orrery::kernels
