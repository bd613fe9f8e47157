#include "kernels/block_gemm.h"

#include <algorithm>
#include <numeric>

#include "kernels/attention_decode.h"
#include "kernels/case_table.h"
#include "kernels/cases/expert_rows.h"

namespace orrery::kernels {

namespace {

struct OperandSet {
  Matrix weights;
  void* weight_scales = nullptr;
};

class BlockGemmCase final : public KernelCase {
 public:
  BlockGemmCase(const CaseSpec& spec, bool wgmma)
      : spec_(spec), wgmma_(wgmma), by_channel_(spec.dtype == "fp8-channel"), k_blocks_((spec.k + 127) / 128),
        rows_(spec) {}

  std::string kernel() const override {
    return std::string("orrery.block_gemm") + (wgmma_ ? "_wgmma." : ".") +
           (by_channel_ ? "fp8_channel" : "fp8_block") + (spec_.slots > 0 ? ".masked" : "") + ".v1";
  }

  std::size_t bytes_per_set() const override {
    const std::int64_t scales =
        by_channel_ ? rows() + experts() * spec_.n : (scale_block() + experts() * n_blocks()) * k_blocks_;
    return static_cast<std::size_t>((rows() + experts() * spec_.n) * spec_.k + rows() * spec_.n * 2 +
                                    scales * 4);
  }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    if (const char* refusal = wgmma_ ? block_gemm_wgmma_refusal() : nullptr) {
      why = refusal;
      return false;
    }
    activation_scale_ =
        make_scales(by_channel_ ? rows() : scale_block() * k_blocks_, 0.01F, spec_.fill, spec_.seed);
    weight_scale_ = make_scales(by_channel_ ? experts() * spec_.n : experts() * n_blocks() * k_blocks_,
                                0.001F, spec_.fill, spec_.seed + 1);
    // Activations and outputs are warm, the kernel before wrote them; weights are cold and rotate.
    activations_ = {nullptr, Element::fp8, rows(), spec_.k};
    out_ = {nullptr, Element::bf16, rows(), spec_.n};
    activation_scales_there_ = upload_new(memory, activation_scale_.data(), activation_scale_.size() * 4);
    bool room = rows_.upload(memory) && activation_scales_there_ != nullptr &&
                activations_.allocate(memory) && out_.allocate(memory);
    for (int i = 0; room && i < sets; ++i) {
      OperandSet set;
      set.weights = {nullptr, Element::fp8, experts() * spec_.n, spec_.k};
      set.weight_scales = upload_new(memory, weight_scale_.data(), weight_scale_.size() * 4);
      room = set.weight_scales != nullptr && set.weights.allocate(memory);
      if (!room) break;
      set.weights.fill(memory, spec_.fill == Fill::with_nan ? Fill::random : spec_.fill, 100.0F,
                       spec_.seed + 10 * static_cast<std::uint64_t>(i) + 3);
      sets_.push_back(set);
    }
    if (!room) {
      why = "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
      return false;
    }
    activations_.fill(memory, spec_.fill, 100.0F, spec_.seed + 2);
    if (wgmma_ && spec_.rows.empty()) {
      workspace_bytes_ = block_gemm_workspace(attention_compute_units());
      workspace_ = memory.allocate(static_cast<std::size_t>(workspace_bytes_));
      if (workspace_ == nullptr) {
        why = "no room for a workspace";
        return false;
      }
      memory.fill(workspace_, 0, block_gemm_counter_bytes);
    }
    if (!wgmma_ || spec_.variant < 0) return true;
    if (static_cast<std::size_t>(spec_.variant) < block_gemm_tiles().size()) return true;
    why = "there is no such tile";
    return false;
  }

  void launch(int set, Stream stream) override {
    const BlockGemm p = problem(sets_[static_cast<std::size_t>(set)]);
    if (!wgmma_) {
      block_gemm(p, stream);
    } else if (spec_.variant < 0) {
      block_gemm_wgmma(p, stream);
    } else {
      const BlockGemmTile& tile = block_gemm_tiles()[static_cast<std::size_t>(spec_.variant)];
      if (const char* why = block_gemm_wgmma(p, tile, stream)) refused_ = why;
    }
  }
  std::string refusal() const override { return refused_; }

  CheckResult check(DeviceMemory& memory) override {
    return compare_product(
        memory, rows_, activations_, out_, spec_.seed, sum_error(Element::fp8, spec_.k),
        [&](const std::vector<std::int64_t>& places) {
          return sets_.front().weights.some_rows(memory, places);
        },
        [this](std::vector<double> values, std::int64_t row) { return scaled_activations(values, row); },
        [this](std::vector<double> values, std::int64_t place) { return scaled_weights(values, place); });
  }

  double flops() const override {
    return 2.0 * static_cast<double>(rows_.used().size()) * static_cast<double>(spec_.n * spec_.k);
  }
  // Weights of experts that have rows, activations and outputs once.
  double bytes() const override {
    const double used = static_cast<double>(rows_.used().size());
    const double scales = by_channel_ ? 0 : 1.0 / 32;
    return static_cast<double>(rows_.busy() * spec_.n * spec_.k) +
           used * static_cast<double>(spec_.k) * (1 + scales) + used * static_cast<double>(spec_.n) * 2;
  }

 private:
  std::int64_t rows() const { return rows_.rows(); }
  std::int64_t experts() const { return rows_.experts(); }
  std::int64_t scale_block() const { return (rows() + 3) / 4 * 4; }
  std::int64_t n_blocks() const { return (spec_.n + 127) / 128; }

  BlockGemm problem(const OperandSet& set) const {
    BlockGemm p;
    p.activations = activations_.data;
    p.activation_scales = static_cast<const float*>(activation_scales_there_);
    p.weights = set.weights.data;
    p.weight_scales = static_cast<const float*>(set.weight_scales);
    p.out = out_.data;
    rows_.describe(p);
    p.n = static_cast<std::int32_t>(spec_.n);
    p.k = static_cast<std::int32_t>(spec_.k);
    p.scale_row = 1;  // rows fastest: as engines keep them for Hopper, and as cuBLASLt takes them
    p.scale_block = static_cast<std::int32_t>(scale_block());
    p.weight_blocks = static_cast<std::int32_t>(k_blocks_);
    p.by_channel = by_channel_;
    p.workspace = workspace_;
    p.workspace_bytes = workspace_bytes_;
    p.early = spec_.early;
    return p;
  }

  std::vector<double> scaled_activations(std::vector<double> values, std::int64_t row) const {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::int64_t block = by_channel_ ? 0 : static_cast<std::int64_t>(i) / 128;
      values[i] *= activation_scale_[static_cast<std::size_t>(block * scale_block() + row)];
    }
    return values;
  }
  // `place`: a row of all experts' weights.
  std::vector<double> scaled_weights(std::vector<double> values, std::int64_t place) const {
    const std::int64_t first = (place / spec_.n * n_blocks() + place % spec_.n / 128) * k_blocks_;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::int64_t at = by_channel_ ? place : first + static_cast<std::int64_t>(i) / 128;
      values[i] *= weight_scale_[static_cast<std::size_t>(at)];
    }
    return values;
  }

  CaseSpec spec_;
  bool wgmma_, by_channel_;
  std::int64_t k_blocks_;
  ExpertRowsOfCase rows_;
  Matrix activations_, out_;
  void *activation_scales_there_ = nullptr, *workspace_ = nullptr;
  std::int64_t workspace_bytes_ = 0;
  std::vector<float> activation_scale_, weight_scale_;
  std::vector<OperandSet> sets_;
  std::string refused_;
};

}  // namespace

// The operator is "block_gemm", or "block_gemm_wgmma" for the form of it that only Hopper runs.
std::unique_ptr<KernelCase> make_block_gemm_case(const CaseSpec& spec, std::string& why) {
  const bool wgmma = spec.op == "block_gemm_wgmma";
  const std::int64_t most =
      spec.rows.empty() ? spec.m : *std::max_element(spec.rows.begin(), spec.rows.end());
  const std::int64_t rows = spec.rows.empty() ? spec.m
                            : spec.slots > 0
                                ? spec.slots * static_cast<std::int64_t>(spec.rows.size())
                                : std::accumulate(spec.rows.begin(), spec.rows.end(), std::int64_t{0});
  const std::string needs = "operator " + spec.op + " needs ";
  if (spec.dtype != "fp8-block" && spec.dtype != "fp8-channel") {
    why = needs + "dtype fp8-block or fp8-channel, not " + spec.dtype;
  } else if (spec.rows.size() > block_gemm_max_experts || (spec.rows.empty() && spec.m < 1)) {
    why = needs + "m ≥ 1, or rows: one number each for 1 to " + std::to_string(block_gemm_max_experts) +
          " experts";
  } else if (spec.slots > 0 && (spec.rows.empty() || most > spec.slots)) {
    why = needs + "with slots, rows of at most as many";
  } else if (spec.n < 1 || spec.k < 1 || spec.k % 16 != 0 || (wgmma && spec.n % 8 != 0)) {
    why = needs + (wgmma ? "n, a multiple of 8, and k, a multiple of 16" : "n ≥ 1 and k, a multiple of 16");
  } else if (rows * spec.n >= (std::int64_t{1} << 40) ||
             rows * ((spec.k + 127) / 128) >= (std::int64_t{1} << 31)) {
    why = needs + "fewer rows or features: indices are 32 bits wide";
  } else {
    return std::make_unique<BlockGemmCase>(spec, wgmma);
  }
  return nullptr;
}

}  // namespace orrery::kernels
