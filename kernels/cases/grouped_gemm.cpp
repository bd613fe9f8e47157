#include "kernels/grouped_gemm.h"

#include <algorithm>

#include "kernels/case_table.h"
#include "kernels/cases/matrix_operands.h"
#include "kernels/cases/parallel.h"

namespace orrery::kernels {

namespace {

struct OperandSet {
  Matrix activations, weights, out;
  void* activation_scales = nullptr;
  void* weight_scales = nullptr;
};

class GroupedGemmCase final : public KernelCase {
 public:
  GroupedGemmCase(const CaseSpec& spec, bool wgmma)
      : spec_(spec), wgmma_(wgmma), fp8_(spec.dtype == "fp8-block") {
    offsets_.push_back(0);
    for (const std::int64_t rows : spec.rows) {
      offsets_.push_back(offsets_.back() + static_cast<std::int32_t>(rows));
      busy_ += rows > 0;
    }
    k_blocks_ = (spec.k + 127) / 128;
    n_blocks_ = (spec.n + 127) / 128;
  }

  std::string kernel() const override {
    return std::string("orrery.grouped_gemm") + (wgmma_ ? "_wgmma." : ".") + (fp8_ ? "fp8_block" : "bf16") +
           ".v1";
  }

  std::size_t bytes_per_set() const override {
    const std::int64_t element = fp8_ ? 1 : 2;
    std::int64_t all = (rows() * spec_.k + experts() * spec_.n * spec_.k) * element + rows() * spec_.n * 2;
    if (fp8_) all += (rows() * k_blocks_ + experts() * n_blocks_ * k_blocks_) * 4;
    return static_cast<std::size_t>(all);
  }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    if (const char* refusal = wgmma_ ? grouped_gemm_wgmma_refusal() : nullptr) {
      why = refusal;
      return false;
    }
    row_offsets_ = upload_new(memory, offsets_.data(), offsets_.size() * 4);
    const Element element = fp8_ ? Element::fp8 : Element::bf16;
    activation_scale_ = make_scales(rows() * k_blocks_, 0.01F, spec_.fill, spec_.seed);
    weight_scale_ = make_scales(experts() * n_blocks_ * k_blocks_, 0.001F, spec_.fill, spec_.seed + 1);
    OperandSet shared;  // activations and outputs are warm: the kernel before wrote them
    shared.activations = {nullptr, element, rows(), spec_.k};
    shared.out = {nullptr, Element::bf16, rows(), spec_.n};
    bool room = row_offsets_ != nullptr && shared.activations.allocate(memory) && shared.out.allocate(memory);
    if (room && fp8_) {
      shared.activation_scales = upload_new(memory, activation_scale_.data(), activation_scale_.size() * 4);
      room = shared.activation_scales != nullptr;
    }
    for (int i = 0; room && i < sets; ++i) {
      OperandSet set = shared;
      set.weights = {nullptr, element, experts() * spec_.n, spec_.k};
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
    return true;
  }

  void launch(int set, Stream stream) override {
    const OperandSet& o = sets_[static_cast<std::size_t>(set)];
    GroupedGemm problem;
    problem.activations = o.activations.data;
    problem.activation_scales = static_cast<const float*>(o.activation_scales);
    problem.weights = o.weights.data;
    problem.weight_scales = static_cast<const float*>(o.weight_scales);
    problem.out = o.out.data;
    problem.row_offsets = static_cast<const std::int32_t*>(row_offsets_);
    problem.experts = static_cast<std::int32_t>(experts());
    problem.rows = static_cast<std::int32_t>(rows());
    problem.n = static_cast<std::int32_t>(spec_.n);
    problem.k = static_cast<std::int32_t>(spec_.k);
    problem.fp8_block = fp8_;
    problem.tile_rows = grouped_gemm_tile_rows(rows(), busy_);
    wgmma_ ? grouped_gemm_wgmma(problem, stream) : grouped_gemm(problem, stream);
  }

  CheckResult check(DeviceMemory& memory) override {
    MatrixComparison comparison;
    const OperandSet& o = sets_.front();
    const std::vector<std::int64_t> sampled = sample(rows(), 128, spec_.seed);
    const std::int64_t each = sampled.empty() ? 0
                                              : (4095 + static_cast<std::int64_t>(sampled.size())) /
                                                    static_cast<std::int64_t>(sampled.size());
    const std::vector<std::int64_t> columns =
        sample(spec_.n, std::max<std::int64_t>(each, 2), spec_.seed + 1);
    std::vector<std::int64_t> places;  // of weights, one for each output that is compared
    for (const std::int64_t row : sampled) {
      for (const std::int64_t column : columns) places.push_back(expert_of(row) * spec_.n + column);
    }
    const auto activations = o.activations.some_rows(memory, sampled);
    const auto out = o.out.some_rows(memory, sampled);
    const auto weights = o.weights.some_rows(memory, places);
    std::vector<DotProduct> expected(places.size());
    in_parallel(places.size(), [&](std::size_t i) {
      expected[i] = dot(
          scaled(activations[i / columns.size()], activation_scale_, sampled[i / columns.size()] * k_blocks_),
          scaled(weights[i], weight_scale_, first_scale(places[i])));
    });
    const double error = sum_error(fp8_ ? Element::fp8 : Element::bf16, spec_.k);
    for (std::size_t i = 0; i < places.size(); ++i) {
      const std::int64_t row = sampled[i / columns.size()], column = columns[i % columns.size()];
      const double tolerance = bf16_rounding * std::abs(expected[i].value) + error * expected[i].magnitude;
      comparison.add(out[i / columns.size()][static_cast<std::size_t>(column)], expected[i].value, tolerance,
                     "row " + std::to_string(row) + " (expert " + std::to_string(expert_of(row)) +
                         "), column " + std::to_string(column));
    }
    comparison.guards(memory);
    return comparison.result();
  }

  double flops() const override {
    return 2.0 * static_cast<double>(rows()) * static_cast<double>(spec_.n) * static_cast<double>(spec_.k);
  }
  // Weights of experts that have rows, activations and outputs once.
  double bytes() const override {
    const double element = fp8_ ? 1 + 1.0 / 32 : 2, weight = fp8_ ? 1 : 2;
    return static_cast<double>(busy_ * spec_.n * spec_.k) * weight +
           static_cast<double>(rows() * spec_.k) * element + static_cast<double>(rows() * spec_.n) * 2;
  }

 private:
  std::int64_t rows() const { return offsets_.back(); }
  std::int64_t experts() const { return static_cast<std::int64_t>(spec_.rows.size()); }
  std::int64_t expert_of(std::int64_t row) const {
    return std::upper_bound(offsets_.begin(), offsets_.end(), static_cast<std::int32_t>(row)) -
           offsets_.begin() - 1;
  }
  // Where the scales of a row of weights begin.
  std::int64_t first_scale(std::int64_t place) const {
    return (place / spec_.n * n_blocks_ + place % spec_.n / 128) * k_blocks_;
  }
  std::vector<double> scaled(std::vector<double> values, const std::vector<float>& scales,
                             std::int64_t first) const {
    for (std::size_t i = 0; fp8_ && i < values.size(); ++i)
      values[i] *= scales[static_cast<std::size_t>(first) + i / 128];
    return values;
  }

  CaseSpec spec_;
  bool wgmma_, fp8_;
  std::vector<std::int32_t> offsets_;
  std::int64_t busy_ = 0, k_blocks_ = 0, n_blocks_ = 0;
  void* row_offsets_ = nullptr;
  std::vector<float> activation_scale_, weight_scale_;
  std::vector<OperandSet> sets_;
};

}  // namespace

// The operator is "grouped_gemm", or "grouped_gemm_wgmma" for the form of it that only Hopper runs.
std::unique_ptr<KernelCase> make_grouped_gemm_case(const CaseSpec& spec, std::string& why) {
  if (spec.dtype == "w4a8" || spec.dtype == "w4a16") return make_w4_gemm_case(spec, why);
  const bool fp8 = spec.dtype == "fp8-block";
  const auto experts = static_cast<std::int64_t>(spec.rows.size());
  std::int64_t rows = 0;
  for (const std::int64_t each : spec.rows) rows += each;
  const std::string needs = "operator " + spec.op + " needs ";
  if (!fp8 && spec.dtype != "bf16") {
    why = needs + "dtype bf16, fp8-block, w4a8 or w4a16, not " + spec.dtype;
  } else if (experts < 1 || experts > grouped_gemm_max_experts) {
    why = needs + "rows: one number each for 1 to " + std::to_string(grouped_gemm_max_experts) + " experts";
  } else if (spec.n < 1 || spec.k < 1 || spec.k % (fp8 ? 16 : 8) != 0) {
    why = needs + "n ≥ 1 and k, a multiple of " + (fp8 ? "16" : "8");
  } else if (rows >= (std::int64_t{1} << 31) || spec.n >= (1 << 28) || spec.k >= (1 << 28)) {
    why = needs + "fewer rows or features: indices are 32 bits wide";
  } else {
    return std::make_unique<GroupedGemmCase>(spec, spec.op == "grouped_gemm_wgmma");
  }
  return nullptr;
}

}  // namespace orrery::kernels
