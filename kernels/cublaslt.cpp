#include "kernels/cublaslt.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "kernels/vendor_library.h"

namespace orrery::kernels {

namespace {

struct Library {
  cublasLtHandle_t handle = nullptr;
  std::string why;
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) config = nullptr;
  decltype(&cublasLtMatmulDescCreate) describe = nullptr;
  decltype(&cublasLtMatmulDescDestroy) forget = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) drop_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) prefer = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) drop_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;

  Library() {
    const VendorLibrary& cublas_lt = vendor_library(Vendor::cublas_lt);
    cublas_lt.take(create, "cublasLtCreate", why);
    cublas_lt.take(matmul, "cublasLtMatmul", why);
    cublas_lt.take(heuristic, "cublasLtMatmulAlgoGetHeuristic", why);
    cublas_lt.take(config, "cublasLtMatmulAlgoConfigGetAttribute", why);
    cublas_lt.take(describe, "cublasLtMatmulDescCreate", why);
    cublas_lt.take(forget, "cublasLtMatmulDescDestroy", why);
    cublas_lt.take(set, "cublasLtMatmulDescSetAttribute", why);
    cublas_lt.take(layout, "cublasLtMatrixLayoutCreate", why);
    cublas_lt.take(drop_layout, "cublasLtMatrixLayoutDestroy", why);
    cublas_lt.take(prefer, "cublasLtMatmulPreferenceCreate", why);
    cublas_lt.take(drop_preference, "cublasLtMatmulPreferenceDestroy", why);
    cublas_lt.take(set_preference, "cublasLtMatmulPreferenceSetAttribute", why);
    if (!why.empty()) return;
    const cublasStatus_t status = create(&handle);
    if (status != CUBLAS_STATUS_SUCCESS)
      why = "cublasLtCreate: status " + std::to_string(static_cast<int>(status));
  }
};

// A handle belongs to the device that is current when it is made.
Library& library() {
  static std::map<int, std::unique_ptr<Library>> by_device;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) device = 0;
  std::unique_ptr<Library>& found = by_device[device];
  if (!found) found = std::make_unique<Library>();
  return *found;
}

// A stream and two events; `end` is null when one of them is missing.
struct Stopwatch {
  cudaStream_t stream = nullptr;
  cudaEvent_t begin = nullptr, end = nullptr;

  Stopwatch() {
    const bool fine = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
                      cudaEventCreate(&begin) == cudaSuccess;
    if (!fine || cudaEventCreate(&end) != cudaSuccess) end = nullptr;
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() {
    if (begin != nullptr) cudaEventDestroy(begin);
    if (end != nullptr) cudaEventDestroy(end);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

class Plan final : public LibraryGemm {
 public:
  Plan(Library& lt, const GemmShape& shape) : lt_(lt), shape_(shape) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() override {
    if (description_ != nullptr) lt_.forget(description_);
    for (cublasLtMatrixLayout_t each : {weights_, activations_, out_}) {
      if (each != nullptr) lt_.drop_layout(each);
    }
  }

  bool describe(std::string& why) {
    const cudaDataType_t type = shape_.scaling == GemmScaling::none ? CUDA_R_16BF : CUDA_R_8F_E4M3;
    const auto m = static_cast<std::uint64_t>(shape_.m), n = static_cast<std::uint64_t>(shape_.n),
               k = static_cast<std::uint64_t>(shape_.k);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    bool good = ok(lt_.describe(&description_, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
                ok(lt_.layout(&weights_, type, k, n, shape_.k)) &&
                ok(lt_.layout(&activations_, type, k, m, shape_.k)) &&
                ok(lt_.layout(&out_, CUDA_R_16BF, n, m, shape_.n)) &&
                attribute(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (shape_.scaling == GemmScaling::channel || shape_.scaling == GemmScaling::block) {
      const bool block = shape_.scaling == GemmScaling::block;
      const std::int32_t of_weights =
          block ? CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F : CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
      const std::int32_t of_activations =
          block ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F : CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
      good = good && attribute(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, of_weights) &&
             attribute(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, of_activations);
    }
    if (!good) why = "cuBLASLt refuses the description: status " + std::to_string(static_cast<int>(status_));
    return good;
  }

  bool choose(const GemmOperands& trial, std::string& why) {
    std::array<cublasLtMatmulHeuristicResult_t, 4> candidates{};
    int found = 0;
    cublasLtMatmulPreference_t preference = nullptr;
    const std::size_t workspace = cublaslt_workspace_bytes;
    bool good = point_at_scales(trial) && ok(lt_.prefer(&preference)) &&
                ok(lt_.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                      sizeof workspace)) &&
                ok(lt_.heuristic(lt_.handle, description_, weights_, activations_, out_, out_, preference,
                                 static_cast<int>(candidates.size()), candidates.data(), &found));
    if (preference != nullptr) lt_.drop_preference(preference);
    if (!good || found == 0) {
      why = "cuBLASLt offers nothing for this shape and scaling on this device: status " +
            std::to_string(static_cast<int>(status_));
      return false;
    }
    cudaDeviceSynchronize();  // fills of operands still under way would be timed too
    const Stopwatch watch;
    if (watch.end == nullptr) {
      why = "no stream or events to time cuBLASLt's candidates with";
      return false;
    }
    float best = 0;
    int kept = -1;
    for (int i = 0; i < found; ++i) {
      if (candidates[static_cast<std::size_t>(i)].state != CUBLAS_STATUS_SUCCESS) continue;
      algorithm_ = candidates[static_cast<std::size_t>(i)].algo;
      const float took = time_once(trial, watch);
      if (took > 0 && (kept < 0 || took < best)) {
        best = took;
        kept = i;
      }
    }
    if (kept < 0) {
      why = "none of cuBLASLt's " + std::to_string(found) + " candidates runs: status " +
            std::to_string(static_cast<int>(status_));
      return false;
    }
    use(candidates[static_cast<std::size_t>(kept)].algo, found);
    return true;
  }

  void use(const cublasLtMatmulAlgo_t& algorithm, int of) {
    algorithm_ = algorithm;
    std::uint32_t id = 0, tile = 0, stages = 0, split = 0;
    std::size_t written = 0;
    lt_.config(&algorithm_, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof id, &written);
    lt_.config(&algorithm_, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof tile, &written);
    lt_.config(&algorithm_, CUBLASLT_ALGO_CONFIG_STAGES_ID, &stages, sizeof stages, &written);
    lt_.config(&algorithm_, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, &written);
    text_ = "algo " + std::to_string(id) + ", tile " + std::to_string(tile) + ", stages " +
            std::to_string(stages) + ", split " + std::to_string(split) + ", of " + std::to_string(of);
    of_ = of;
  }

  bool launch(const GemmOperands& o, void* stream) override {
    const float one = 1, zero = 0;
    return point_at_scales(o) &&
           ok(lt_.matmul(lt_.handle, description_, &one, o.weights, weights_, o.activations, activations_,
                         &zero, o.out, out_, o.out, out_, &algorithm_, o.workspace, cublaslt_workspace_bytes,
                         static_cast<cudaStream_t>(stream)));
  }

  const std::string& algorithm() const override { return text_; }
  const cublasLtMatmulAlgo_t& raw_algorithm() const { return algorithm_; }
  int candidates() const { return of_; }

 private:
  bool ok(cublasStatus_t status) {
    status_ = status;
    return status == CUBLAS_STATUS_SUCCESS;
  }
  template <class T>
  bool attribute(cublasLtMatmulDescAttributes_t name, const T& value) {
    return ok(lt_.set(description_, name, &value, sizeof value));
  }
  bool point_at_scales(const GemmOperands& o) {
    if (shape_.scaling == GemmScaling::none) return true;
    return attribute(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, o.weight_scales) &&
           attribute(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, o.activation_scales);
  }

  // Milliseconds of the fastest of three launches after one to warm up, of one where it is long; negative
  // when it fails.
  float time_once(const GemmOperands& trial, const Stopwatch& watch) {
    constexpr float long_ms = 0.5F;
    float best = -1;
    if (!launch(trial, watch.stream)) return best;
    for (int i = 0; i < 3 && best < long_ms; ++i) {
      float took = 0;
      cudaEventRecord(watch.begin, watch.stream);
      const bool launched = launch(trial, watch.stream);
      cudaEventRecord(watch.end, watch.stream);
      if (!launched || cudaStreamSynchronize(watch.stream) != cudaSuccess) break;
      if (cudaEventElapsedTime(&took, watch.begin, watch.end) != cudaSuccess) break;
      if (best < 0 || took < best) best = took;
    }
    cudaStreamSynchronize(watch.stream);
    return best;
  }

  Library& lt_;
  GemmShape shape_;
  cublasLtMatmulDesc_t description_ = nullptr;
  cublasLtMatrixLayout_t weights_ = nullptr, activations_ = nullptr, out_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
  std::string text_;
  int of_ = 0;
};

}  // namespace

bool cublaslt_built() { return true; }

std::unique_ptr<LibraryGemm> plan_cublaslt_gemm(const GemmShape& shape, const GemmOperands& trial,
                                                std::string& why) {
  static std::mutex one_at_a_time;  // ranks plan in threads of their own
  const std::lock_guard lock(one_at_a_time);
  Library& lt = library();
  if (!lt.why.empty()) {
    why = lt.why;
    return nullptr;
  }
  auto plan = std::make_unique<Plan>(lt, shape);
  if (!plan->describe(why)) return nullptr;
  using Key = std::tuple<Library*, GemmScaling, std::int64_t, std::int64_t, std::int64_t>;
  static std::map<Key, std::pair<cublasLtMatmulAlgo_t, int>> cache;
  const Key key{&lt, shape.scaling, shape.m, shape.n, shape.k};
  const auto known = cache.find(key);
  if (known != cache.end()) {
    plan->use(known->second.first, known->second.second);
  } else {
    if (!plan->choose(trial, why)) return nullptr;
    cache[key] = {plan->raw_algorithm(), plan->candidates()};
  }
  return plan;
}

}  // namespace orrery::kernels
