#include <algorithm>
#include <map>

#include "kernels/case_table.h"
#include "kernels/cases/matrix_operands.h"
#include "kernels/cublaslt.h"

namespace orrery::kernels {

namespace {

struct Scaling {
  const char* dtype;
  GemmScaling scaling;
  const char* kernel;
};
constexpr Scaling scalings[] = {
    {"bf16", GemmScaling::none, "cublaslt.gemm.bf16"},
    {"fp8-tensor", GemmScaling::tensor, "cublaslt.gemm.fp8_tensor"},
    {"fp8-channel", GemmScaling::channel, "cublaslt.gemm.fp8_channel"},
    {"fp8-block", GemmScaling::block, "cublaslt.gemm.fp8_block"},
};

struct OperandSet {
  Matrix activations, weights, out;
  void* activation_scales = nullptr;
  void* weight_scales = nullptr;
};

class GemmCase final : public KernelCase {
 public:
  GemmCase(const CaseSpec& spec, const Scaling& scaling)
      : spec_(spec), scaling_(scaling), fp8_(scaling.scaling != GemmScaling::none) {}

  std::string kernel() const override { return scaling_.kernel; }

  // Without the workspace, which all sets share: sets are counted to be more than the last cache holds.
  std::size_t bytes_per_set() const override { return static_cast<std::size_t>(bytes()); }

  // The workspace is shared: launches of one stream follow each other.
  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    make_all_scales();
    workspace_ = memory.allocate(cublaslt_workspace_bytes);
    for (int i = 0; i < sets; ++i) {
      OperandSet set;
      const Element element = fp8_ ? Element::fp8 : Element::bf16;
      set.activations = {nullptr, element, spec_.m, spec_.k};
      set.weights = {nullptr, element, spec_.n, spec_.k};
      set.out = {nullptr, Element::bf16, spec_.m, spec_.n};
      bool room = workspace_ != nullptr && set.activations.allocate(memory) && set.weights.allocate(memory) &&
                  set.out.allocate(memory);
      if (room && fp8_) {
        set.activation_scales = upload_new(memory, activation_scale_.data(), activation_scale_.size() * 4);
        set.weight_scales = upload_new(memory, weight_scale_.data(), weight_scale_.size() * 4);
        room = set.activation_scales != nullptr && set.weight_scales != nullptr;
      }
      if (!room) {
        why =
            "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
        return false;
      }
      const std::uint64_t seed = spec_.seed + 10 * static_cast<std::uint64_t>(i);
      set.activations.fill(memory, spec_.fill, fp8_ ? 100.0F : 1.0F, seed + 2);
      set.weights.fill(memory, spec_.fill == Fill::with_nan ? Fill::random : spec_.fill,
                       fp8_ ? 100.0F : 0.02F, seed + 3);
      sets_.push_back(set);
    }
    plan_ = plan_cublaslt_gemm({scaling_.scaling, spec_.m, spec_.n, spec_.k}, operands(0), why);
    return plan_ != nullptr;
  }

  void launch(int set, Stream stream) override {
    refused_ = !plan_->launch(operands(set), stream) || refused_;
  }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    if (refused_) comparison.fail("cuBLASLt refused a launch (" + plan_->algorithm() + ")");
    const OperandSet& o = sets_.front();
    const std::vector<std::int64_t> rows = sample(spec_.m, 64, spec_.seed);
    const auto sampled = static_cast<std::int64_t>(rows.size());
    const std::vector<std::int64_t> columns = sample(spec_.n, (4095 + sampled) / sampled, spec_.seed + 1);
    std::map<std::int64_t, std::vector<double>> weights;
    for (const std::int64_t column : columns) {
      weights[column] = o.weights.row(memory, column);
      scale_weights(weights[column], column);
    }
    const double error = sum_error(fp8_ ? Element::fp8 : Element::bf16, spec_.k);
    for (const std::int64_t row : rows) {
      std::vector<double> a = o.activations.row(memory, row);
      scale_activations(a, row);
      const std::vector<double> out = o.out.row(memory, row);
      for (const auto& [column, weight] : weights) {
        const DotProduct expected = dot(a, weight);
        const double tolerance = bf16_rounding * std::abs(expected.value) + error * expected.magnitude;
        comparison.add(out[static_cast<std::size_t>(column)], expected.value, tolerance,
                       "row " + std::to_string(row) + ", column " + std::to_string(column));
      }
    }
    comparison.guards(memory);
    return comparison.result();
  }

  double flops() const override {
    return 2.0 * static_cast<double>(spec_.m) * static_cast<double>(spec_.n) * static_cast<double>(spec_.k);
  }
  double bytes() const override {
    const double element = fp8_ ? 1 : 2;
    return element * static_cast<double>((spec_.m + spec_.n) * spec_.k) +
           2.0 * static_cast<double>(spec_.m * spec_.n);
  }

 private:
  void make_all_scales() {
    const std::int64_t blocks = (spec_.k + 127) / 128;
    std::int64_t of_activations = 0, of_weights = 0;
    switch (scaling_.scaling) {
      case GemmScaling::none: break;
      case GemmScaling::tensor: of_activations = of_weights = 1; break;
      case GemmScaling::channel:
        of_activations = spec_.m;
        of_weights = spec_.n;
        break;
      case GemmScaling::block:
        of_activations = blocks * spec_.m;
        of_weights = (spec_.n + 127) / 128 * gemm_padded_blocks(spec_.k);
        break;
    }
    activation_scale_ = make_scales(of_activations, 0.01F, spec_.fill, spec_.seed);
    weight_scale_ = make_scales(of_weights, 0.001F, spec_.fill, spec_.seed + 1);
  }

  void scale_activations(std::vector<double>& row, std::int64_t index) const {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (scaling_.scaling == GemmScaling::tensor) row[i] *= activation_scale_[0];
      if (scaling_.scaling == GemmScaling::channel)
        row[i] *= activation_scale_[static_cast<std::size_t>(index)];
      if (scaling_.scaling == GemmScaling::block) {
        row[i] *=
            activation_scale_[i / 128 * static_cast<std::size_t>(spec_.m) + static_cast<std::size_t>(index)];
      }
    }
  }
  void scale_weights(std::vector<double>& row, std::int64_t index) const {
    const std::int64_t first = index / 128 * gemm_padded_blocks(spec_.k);
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (scaling_.scaling == GemmScaling::tensor) row[i] *= weight_scale_[0];
      if (scaling_.scaling == GemmScaling::channel) row[i] *= weight_scale_[static_cast<std::size_t>(index)];
      if (scaling_.scaling == GemmScaling::block)
        row[i] *= weight_scale_[static_cast<std::size_t>(first) + i / 128];
    }
  }

  GemmOperands operands(int set) const {
    const OperandSet& o = sets_[static_cast<std::size_t>(set)];
    return {o.activations.data,
            o.weights.data,
            o.out.data,
            static_cast<const float*>(o.activation_scales),
            static_cast<const float*>(o.weight_scales),
            workspace_};
  }

  CaseSpec spec_;
  Scaling scaling_;
  bool fp8_;
  bool refused_ = false;
  void* workspace_ = nullptr;
  std::vector<float> activation_scale_, weight_scale_;
  std::vector<OperandSet> sets_;
  std::unique_ptr<CublasLtGemm> plan_;
};

}  // namespace

std::unique_ptr<KernelCase> make_gemm_case(const CaseSpec& spec, std::string& why) {
  for (const Scaling& scaling : scalings) {
    if (spec.dtype != scaling.dtype) continue;
    if (spec.m < 1 || spec.n < 1 || spec.k < 1) {
      why = "operator gemm needs m, n and k, each at least 1";
      return nullptr;
    }
    return std::make_unique<GemmCase>(spec, scaling);
  }
  why = "operator gemm needs dtype bf16, fp8-tensor, fp8-channel or fp8-block, not " + spec.dtype;
  return nullptr;
}

}  // namespace orrery::kernels
