#include <algorithm>
#include <array>

#include "kernels/case_table.h"
#include "kernels/cases/matrix_operands.h"
#include "kernels/cases/parallel.h"
#include "kernels/cublaslt.h"
#include "kernels/hipblaslt.h"

namespace orrery::kernels {

namespace {

struct Scaling {
  const char* dtype;
  GemmScaling scaling;
  const char* kernel;  // behind the library's name
};
constexpr Scaling scalings[] = {
    {"bf16", GemmScaling::none, "gemm.bf16"},
    {"fp8-tensor", GemmScaling::tensor, "gemm.fp8_tensor"},
    {"fp8-channel", GemmScaling::channel, "gemm.fp8_channel"},
    {"fp8-block", GemmScaling::block, "gemm.fp8_block"},
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

  // "…pad4": run with rows padded to a multiple of four.
  std::string kernel() const override {
    const std::string name = std::string(cublaslt_built() ? "cublaslt." : "hipblaslt.") + scaling_.kernel;
    return pad_ > 1 ? name + ".pad" + std::to_string(pad_) : name;
  }

  // Without the workspace, which all sets share: sets are counted to be more than the last cache holds.
  std::size_t bytes_per_set() const override { return static_cast<std::size_t>(bytes()); }

  // Workspace, activations and outputs are shared: launches of one stream follow each other, and a model's
  // activations were written by the kernel before. Weights are cold and rotate.
  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    const Element element = fp8_ ? Element::fp8 : Element::bf16;
    const std::int64_t rows = padded_to(fp8_block_pads.back());
    workspace_ = memory.allocate(cublaslt_workspace_bytes);
    OperandSet shared;
    shared.activations = {nullptr, element, rows, spec_.k};
    shared.out = {nullptr, Element::bf16, rows, spec_.n};
    bool room = workspace_ != nullptr && shared.activations.allocate(memory) && shared.out.allocate(memory);
    make_weight_scales();
    for (int i = 0; room && i < sets; ++i) {
      OperandSet set = shared;
      set.weights = {nullptr, element, spec_.n, spec_.k};
      room = set.weights.allocate(memory);
      if (room && fp8_) {
        set.weight_scales = upload_new(memory, weight_scale_.data(), weight_scale_.size() * 4);
        room = set.weight_scales != nullptr;
      }
      if (!room) break;
      set.weights.fill(memory, spec_.fill == Fill::with_nan ? Fill::random : spec_.fill,
                       fp8_ ? 100.0F : 0.02F, spec_.seed + 10 * static_cast<std::uint64_t>(i) + 3);
      sets_.push_back(set);
    }
    if (!room) {
      why = "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
      return false;
    }
    shared.activations.fill(memory, spec_.fill, fp8_ ? 100.0F : 1.0F, spec_.seed + 2);
    return plan(memory, why);
  }

  void launch(int set, Stream stream) override {
    refused_ = !plan_->launch(operands(set), stream) || refused_;
  }

  std::string refusal() const override {
    return refused_ ? kernel() + " refused a launch (" + plan_->algorithm() + ")" : "";
  }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    const OperandSet& o = sets_.front();
    const std::vector<std::int64_t> rows = sample(spec_.m, 64, spec_.seed);
    const auto sampled = static_cast<std::int64_t>(rows.size());
    const std::vector<std::int64_t> columns = sample(spec_.n, (4095 + sampled) / sampled, spec_.seed + 1);
    auto weights = o.weights.some_rows(memory, columns);
    auto activations = o.activations.some_rows(memory, rows);
    const auto out = o.out.some_rows(memory, rows);
    in_parallel(columns.size(), [&](std::size_t i) { scale_weights(weights[i], columns[i]); });
    in_parallel(rows.size(), [&](std::size_t i) { scale_activations(activations[i], rows[i]); });
    std::vector<DotProduct> expected(rows.size() * columns.size());
    in_parallel(expected.size(), [&](std::size_t i) {
      expected[i] = dot(activations[i / columns.size()], weights[i % columns.size()]);
    });
    const double error = sum_error(fp8_ ? Element::fp8 : Element::bf16, spec_.k);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const std::size_t row = i / columns.size();
      const std::int64_t column = columns[i % columns.size()];
      const double tolerance = bf16_rounding * std::abs(expected[i].value) + error * expected[i].magnitude;
      comparison.add(out[row][static_cast<std::size_t>(column)], expected[i].value, tolerance,
                     "row " + std::to_string(rows[row]) + ", column " + std::to_string(column));
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
  // Rows that a block-scaled product runs with: as they are, or padded, as an engine pads them, to the first
  // multiple that the library takes.
  static constexpr std::array<std::int64_t, 5> fp8_block_pads{1, 4, 16, 32, 64};
  std::int64_t padded_to(std::int64_t multiple) const {
    if (scaling_.scaling != GemmScaling::block) return spec_.m;
    return (spec_.m + multiple - 1) / multiple * multiple;
  }

  bool plan(DeviceMemory& memory, std::string& why) {
    for (const std::int64_t pad : fp8_block_pads) {
      const std::int64_t before = rows_;
      rows_ = padded_to(pad);
      if (rows_ == before) continue;  // tried
      pad_ = rows_ == spec_.m ? 1 : pad;
      make_activation_scales();
      void* scales = nullptr;
      if (fp8_) scales = upload_new(memory, activation_scale_.data(), activation_scale_.size() * 4);
      if (fp8_ && scales == nullptr) {
        why = "no room for scales";
        return false;
      }
      for (OperandSet& set : sets_) set.activation_scales = scales;
      const GemmShape shape{scaling_.scaling, rows_, spec_.n, spec_.k};
      plan_ = cublaslt_built() ? plan_cublaslt_gemm(shape, operands(0), why)
                               : plan_hipblaslt_gemm(shape, device_fp8() == Fp8Format::fnuz, why);
      if (plan_ != nullptr) return true;
    }
    return false;
  }

  void make_activation_scales() {
    const std::int64_t blocks = (spec_.k + 127) / 128;
    std::int64_t count = 0;
    if (scaling_.scaling == GemmScaling::tensor) count = 1;
    if (scaling_.scaling == GemmScaling::channel) count = rows_;
    if (scaling_.scaling == GemmScaling::block) count = blocks * rows_;
    activation_scale_ = make_scales(count, 0.01F, spec_.fill, spec_.seed);
  }
  void make_weight_scales() {
    std::int64_t count = 0;
    if (scaling_.scaling == GemmScaling::tensor) count = 1;
    if (scaling_.scaling == GemmScaling::channel) count = spec_.n;
    if (scaling_.scaling == GemmScaling::block) count = (spec_.n + 127) / 128 * gemm_padded_blocks(spec_.k);
    weight_scale_ = make_scales(count, 0.001F, spec_.fill, spec_.seed + 1);
  }

  void scale_activations(std::vector<double>& row, std::int64_t index) const {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (scaling_.scaling == GemmScaling::tensor) row[i] *= activation_scale_[0];
      if (scaling_.scaling == GemmScaling::channel)
        row[i] *= activation_scale_[static_cast<std::size_t>(index)];
      if (scaling_.scaling == GemmScaling::block) {
        row[i] *=
            activation_scale_[i / 128 * static_cast<std::size_t>(rows_) + static_cast<std::size_t>(index)];
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
  std::int64_t rows_ = 0, pad_ = 1;  // rows as launched; the multiple that they are padded to
  void* workspace_ = nullptr;
  std::vector<float> activation_scale_, weight_scale_;
  std::vector<OperandSet> sets_;
  std::unique_ptr<LibraryGemm> plan_;
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
