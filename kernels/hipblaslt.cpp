#include "kernels/hipblaslt.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace orrery::kernels {

namespace {

// hipBLASLt's C interface as its header has it (ROCm/hipBLASLt library/include/hipblaslt.h), by the values
// and sizes of its types: hipblasStatus_t, hipDataType, hipblasComputeType_t and the attributes are int,
// handles and descriptors pointers.
namespace abi {
using Handle = void*;
using Object = void*;  // a matmul, layout or preference descriptor
constexpr int success = 0;
constexpr int fp32 = 0, bf16 = 14, e4m3 = 28, e4m3_fnuz = 1000;        // hipDataType
constexpr int compute_fp32 = 2;                                        // HIPBLAS_COMPUTE_32F
constexpr std::int32_t transposed = 112;                               // HIPBLAS_OP_T
constexpr int transpose_first = 0, first_scale = 5, second_scale = 6;  // hipblasLtMatmulDescAttributes_t
constexpr int largest_workspace = 1;  // hipblasLtMatmulPreferenceAttributes_t

struct Algorithm {
  std::uint8_t data[16] = {};
  std::size_t workspace_bytes = 0;
};
struct Candidate {
  Algorithm algorithm;
  std::size_t workspace_bytes = 0;
  int state = success;
  float waves = 1;
  int reserved[4] = {};
};
static_assert(sizeof(Algorithm) == 24 && sizeof(Candidate) == 56);
}  // namespace abi

struct Calls {
  int (*create)(abi::Handle*) = nullptr;
  int (*destroy)(abi::Handle) = nullptr;
  int (*version)(abi::Handle, int*) = nullptr;
  int (*describe)(abi::Object*, int compute, int scale) = nullptr;
  int (*forget)(abi::Object) = nullptr;
  int (*set)(abi::Object, int attribute, const void*, std::size_t) = nullptr;
  int (*layout)(abi::Object*, int type, std::uint64_t rows, std::uint64_t columns,
                std::int64_t leading) = nullptr;
  int (*drop_layout)(abi::Object) = nullptr;
  int (*prefer)(abi::Object*) = nullptr;
  int (*drop_preference)(abi::Object) = nullptr;
  int (*set_preference)(abi::Object, int attribute, const void*, std::size_t) = nullptr;
  int (*heuristic)(abi::Handle, abi::Object, abi::Object, abi::Object, abi::Object, abi::Object, abi::Object,
                   int asked, void* candidates, int* found) = nullptr;
  int (*matmul)(abi::Handle, abi::Object, const void* alpha, const void* a, abi::Object, const void* b,
                abi::Object, const void* beta, const void* c, abi::Object, void* d, abi::Object,
                const void* algorithm, void* workspace, std::size_t, void* stream) = nullptr;

  bool take(const VendorLibrary& library, std::string& why) {
    why.clear();
    library.take(create, "hipblasLtCreate", why);
    library.take(destroy, "hipblasLtDestroy", why);
    library.take(version, "hipblasLtGetVersion", why);
    library.take(describe, "hipblasLtMatmulDescCreate", why);
    library.take(forget, "hipblasLtMatmulDescDestroy", why);
    library.take(set, "hipblasLtMatmulDescSetAttribute", why);
    library.take(layout, "hipblasLtMatrixLayoutCreate", why);
    library.take(drop_layout, "hipblasLtMatrixLayoutDestroy", why);
    library.take(prefer, "hipblasLtMatmulPreferenceCreate", why);
    library.take(drop_preference, "hipblasLtMatmulPreferenceDestroy", why);
    library.take(set_preference, "hipblasLtMatmulPreferenceSetAttribute", why);
    library.take(heuristic, "hipblasLtMatmulAlgoGetHeuristic", why);
    library.take(matmul, "hipblasLtMatmul", why);
    return why.empty();
  }
};

class Plan final : public LibraryGemm {
 public:
  Plan(const Calls& calls, const GemmShape& shape) : calls_(calls), shape_(shape) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() override {
    if (description_ != nullptr) calls_.forget(description_);
    for (abi::Object each : {weights_, activations_, out_}) {
      if (each != nullptr) calls_.drop_layout(each);
    }
    if (handle_ != nullptr) calls_.destroy(handle_);
  }

  bool open(const std::string& file, std::string& why) {
    int version = 0;
    if (!ok(calls_.create(&handle_)) || !ok(calls_.version(handle_, &version))) {
      why = file + " gives no handle: status " + std::to_string(status_);
      return false;
    }
    text_ = "hipBLASLt " + std::to_string(version);
    if (version >= least_hipblaslt_version) return true;
    why = file + " is version " + std::to_string(version) + "; its calls are those of " +
          std::to_string(least_hipblaslt_version) + " (ROCm 6.0) and later";
    return false;
  }

  bool describe(bool fnuz, std::string& why) {
    const int type = shape_.scaling == GemmScaling::none ? abi::bf16 : fnuz ? abi::e4m3_fnuz : abi::e4m3;
    const auto m = static_cast<std::uint64_t>(shape_.m), n = static_cast<std::uint64_t>(shape_.n),
               k = static_cast<std::uint64_t>(shape_.k);
    const bool good =
        ok(calls_.describe(&description_, abi::compute_fp32, abi::fp32)) &&
        ok(calls_.layout(&weights_, type, k, n, shape_.k)) &&
        ok(calls_.layout(&activations_, type, k, m, shape_.k)) &&
        ok(calls_.layout(&out_, abi::bf16, n, m, shape_.n)) &&
        ok(calls_.set(description_, abi::transpose_first, &abi::transposed, sizeof abi::transposed));
    if (!good) why = text_ + " refuses the description: status " + std::to_string(status_);
    return good;
  }

  bool choose(std::string& why) {
    abi::Candidate candidate;
    abi::Object preference = nullptr;
    int found = 0;
    const std::uint64_t workspace = cublaslt_workspace_bytes;
    const bool good =
        ok(calls_.prefer(&preference)) &&
        ok(calls_.set_preference(preference, abi::largest_workspace, &workspace, sizeof workspace)) &&
        ok(calls_.heuristic(handle_, description_, weights_, activations_, out_, out_, preference, 1,
                            &candidate, &found));
    if (preference != nullptr) calls_.drop_preference(preference);
    if (good && found > 0 && candidate.state == abi::success) {
      algorithm_ = candidate.algorithm;
      return true;
    }
    why = text_ + " offers nothing for this shape and scaling on this device: status " +
          std::to_string(status_);
    return false;
  }

  bool launch(const GemmOperands& o, void* stream) override {
    const float one = 1, zero = 0;
    return point_at_scales(o) &&
           ok(calls_.matmul(handle_, description_, &one, o.weights, weights_, o.activations, activations_,
                            &zero, o.out, out_, o.out, out_, &algorithm_, o.workspace,
                            cublaslt_workspace_bytes, stream));
  }
  const std::string& algorithm() const override { return text_; }

 private:
  bool ok(int status) {
    status_ = status;
    return status == abi::success;
  }
  bool point_at_scales(const GemmOperands& o) {
    if (shape_.scaling == GemmScaling::none) return true;
    return ok(calls_.set(description_, abi::first_scale, &o.weight_scales, sizeof o.weight_scales)) &&
           ok(calls_.set(description_, abi::second_scale, &o.activation_scales, sizeof o.activation_scales));
  }

  Calls calls_;
  GemmShape shape_;
  abi::Handle handle_ = nullptr;
  abi::Object description_ = nullptr, weights_ = nullptr, activations_ = nullptr, out_ = nullptr;
  abi::Algorithm algorithm_;
  int status_ = abi::success;
  std::string text_;
};

}  // namespace

std::unique_ptr<LibraryGemm> plan_hipblaslt_gemm(const VendorLibrary& library, const GemmShape& shape,
                                                 bool fnuz, std::string& why) {
  if (shape.scaling == GemmScaling::channel || shape.scaling == GemmScaling::block) {
    why = "hipBLASLt is asked for products without scales or with one for each operand only";
    return nullptr;
  }
  Calls calls;
  if (!calls.take(library, why)) return nullptr;
  auto plan = std::make_unique<Plan>(calls, shape);
  if (!plan->open(library.file(), why) || !plan->describe(fnuz, why) || !plan->choose(why)) return nullptr;
  return plan;
}

std::unique_ptr<LibraryGemm> plan_hipblaslt_gemm(const GemmShape& shape, bool fnuz, std::string& why) {
  return plan_hipblaslt_gemm(vendor_library(Vendor::hipblas_lt), shape, fnuz, why);
}

}  // namespace orrery::kernels
