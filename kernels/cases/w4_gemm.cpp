#include "kernels/w4_gemm.h"

#include <algorithm>
#include <numeric>

#include "kernels/case_table.h"
#include "kernels/cases/expert_rows.h"

namespace orrery::kernels {

namespace {

// Rows of experts, one after the other or in slots. A step's weights are cold and rotate; activations and
// outputs are warm, the kernel before wrote them.
class W4GemmCase final : public KernelCase {
 public:
  W4GemmCase(const CaseSpec& spec, bool wgmma)
      : spec_(spec), wgmma_(wgmma), bf16_(spec.dtype == "w4a16"), rows_(spec) {}

  std::string kernel() const override {
    return std::string("orrery.w4_gemm") + (wgmma_ ? "_wgmma." : ".") + spec_.dtype +
           (spec_.slots > 0 ? ".masked" : "") + ".v1";
  }

  std::size_t bytes_per_set() const override {
    return packed_bytes() + static_cast<std::size_t>(rows_.rows() * spec_.k) * (bf16_ ? 2 : 1) +
           static_cast<std::size_t>(rows_.rows() * (spec_.n * 2 + 4) + scale_count() * 2);
  }

  bool prepare(DeviceMemory& memory, int sets, std::string& why) override {
    if (const char* refusal = wgmma_ ? w4_gemm_wgmma_refusal() : nullptr) {
      why = refusal;
      return false;
    }
    activation_scale_ = make_scales(rows_.rows(), 0.01F, spec_.fill, spec_.seed);
    // Millions of draws would take longer than what is timed: a prime number of them goes round.
    const auto scales =
        make_scales(std::min<std::int64_t>(scale_count(), 65'521), 0.01F, spec_.fill, spec_.seed + 1);
    group_scale_.resize(static_cast<std::size_t>(scale_count()));
    for (std::size_t i = 0; i < group_scale_.size(); ++i)
      group_scale_[i] = float_to_bf16(scales[i % scales.size()]);
    activations_ = {nullptr, bf16_ ? Element::bf16 : Element::fp8, rows_.rows(), spec_.k};
    out_ = {nullptr, Element::bf16, rows_.rows(), spec_.n};
    activation_scales_there_ = upload_new(memory, activation_scale_.data(), activation_scale_.size() * 4);
    bool room = rows_.upload(memory) && activation_scales_there_ != nullptr &&
                activations_.allocate(memory) && out_.allocate(memory) && make_weights(memory);
    for (int i = 0; room && i < sets; ++i) {
      Weights set{memory.allocate(std::max<std::size_t>(packed_bytes(), 16)),
                  upload_new(memory, group_scale_.data(), group_scale_.size() * 2)};
      room = set.packed != nullptr && set.scales != nullptr;
      if (!room) break;
      launch_w4_pack({static_cast<const std::uint8_t*>(stored_), static_cast<std::uint8_t*>(set.packed),
                      static_cast<std::int32_t>(rows_.experts()), static_cast<std::int32_t>(spec_.n),
                      static_cast<std::int32_t>(spec_.k), bf16_},
                     nullptr);
      sets_.push_back(set);
    }
    if (!room) {
      why = "no room for " + std::to_string(sets) + " sets of " + std::to_string(bytes_per_set()) + " bytes";
      return false;
    }
    activations_.fill(memory, spec_.fill, bf16_ ? 1.0F : 100.0F, spec_.seed + 2);
    return true;
  }

  void launch(int set, Stream stream) override {
    const Weights& weights = sets_[static_cast<std::size_t>(set)];
    W4Gemm p;
    rows_.describe(p.product);
    p.product.activations = activations_.data;
    p.product.activation_scales = static_cast<const float*>(activation_scales_there_);
    p.product.weights = weights.packed;
    p.product.out = out_.data;
    p.product.n = static_cast<std::int32_t>(spec_.n);
    p.product.k = static_cast<std::int32_t>(spec_.k);
    p.group_scales = static_cast<const std::uint16_t*>(weights.scales);
    p.bf16 = bf16_;
    wgmma_ ? w4_gemm_wgmma(p, stream) : w4_gemm(p, stream);
  }

  CheckResult check(DeviceMemory& memory) override {
    return compare_product(
        memory, rows_, activations_, out_, spec_.seed,
        sum_error(bf16_ ? Element::bf16 : Element::fp8, spec_.k),
        [&](const std::vector<std::int64_t>& places) { return stored_rows(memory, places); },
        [this](std::vector<double> values, std::int64_t row) {
          for (double& v : values) v *= bf16_ ? 1 : activation_scale_[static_cast<std::size_t>(row)];
          return values;
        },
        [this](std::vector<double> values, std::int64_t place) {
          for (std::size_t k = 0; k < values.size(); ++k) values[k] *= scale_at(place, k / w4_group);
          return values;
        });
  }

  double flops() const override {
    return 2.0 * static_cast<double>(rows_.used().size()) * static_cast<double>(spec_.n * spec_.k);
  }
  // Weights and scales of experts that have rows, activations and outputs once.
  double bytes() const override {
    const double used = static_cast<double>(rows_.used().size());
    return static_cast<double>(rows_.busy() * spec_.n * spec_.k) * (0.5 + 2.0 / w4_group) +
           used * static_cast<double>(spec_.k) * (bf16_ ? 2 : 1) + used * static_cast<double>(spec_.n) * 2;
  }

 private:
  struct Weights {
    void* packed;
    void* scales;
  };

  std::int64_t groups() const { return spec_.k / w4_group; }
  std::int64_t scale_count() const { return rows_.experts() * groups() * w4_padded(spec_.n); }
  std::size_t packed_bytes() const {
    return static_cast<std::size_t>(rows_.experts() * w4_padded(spec_.n) * spec_.k / 2);
  }
  std::size_t stored_bytes() const {
    return static_cast<std::size_t>(rows_.experts() * spec_.n * spec_.k / 2);
  }
  double scale_at(std::int64_t place, std::size_t group) const {
    const std::int64_t at =
        (place / spec_.n * groups() + static_cast<std::int64_t>(group)) * w4_padded(spec_.n) +
        place % spec_.n;
    return bf16_to_float(group_scale_[static_cast<std::size_t>(at)]);
  }

  // As a checkpoint has them; every set is packed from these. Random halves of bytes come from fp32's bits.
  bool make_weights(DeviceMemory& memory) {
    stored_ = memory.allocate(std::max<std::size_t>(stored_bytes(), 16));
    if (stored_ == nullptr) return false;
    if (spec_.fill == Fill::zeros || spec_.fill == Fill::saturating) {
      memory.fill(stored_, spec_.fill == Fill::zeros ? 0 : 0x78, stored_bytes());  // −8 and 7 in turn
    } else {
      memory.fill_random(stored_, stored_bytes() / 4, "fp32", 1, spec_.seed + 3);
    }
    return true;
  }
  std::vector<std::vector<double>> stored_rows(DeviceMemory& memory,
                                               const std::vector<std::int64_t>& places) const {
    const auto row_bytes = static_cast<std::size_t>(spec_.k / 2);
    std::vector<std::uint8_t> bytes(row_bytes);
    std::vector<std::vector<double>> out;
    for (const std::int64_t place : places) {
      memory.download(bytes.data(),
                      static_cast<const std::uint8_t*>(stored_) + static_cast<std::size_t>(place) * row_bytes,
                      row_bytes);
      std::vector<double>& values = out.emplace_back();
      for (const std::uint8_t two : bytes) {
        for (const int half : {two & 15, two >> 4}) values.push_back(half < 8 ? half : half - 16);
      }
    }
    return out;
  }

  CaseSpec spec_;
  bool wgmma_, bf16_;
  ExpertRowsOfCase rows_;
  Matrix activations_, out_;
  void *activation_scales_there_ = nullptr, *stored_ = nullptr;
  std::vector<float> activation_scale_;
  std::vector<std::uint16_t> group_scale_;
  std::vector<Weights> sets_;
};

}  // namespace

// The types "w4a8" and "w4a16" of "grouped_gemm", and of "grouped_gemm_wgmma", which only Hopper runs.
std::unique_ptr<KernelCase> make_w4_gemm_case(const CaseSpec& spec, std::string& why) {
  const bool wgmma = spec.op == "grouped_gemm_wgmma";
  const std::int64_t most = spec.rows.empty() ? 0 : *std::max_element(spec.rows.begin(), spec.rows.end());
  const std::int64_t rows = std::accumulate(spec.rows.begin(), spec.rows.end(), std::int64_t{0});
  const std::string needs = "operator " + spec.op + " in " + spec.dtype + " needs ";
  if (spec.rows.empty() || spec.rows.size() > block_gemm_max_experts) {
    why = needs + "rows: one number each for 1 to " + std::to_string(block_gemm_max_experts) + " experts";
  } else if (spec.slots > 0 && most > spec.slots) {
    why = needs + "with slots, rows of at most as many";
  } else if (spec.n < 1 || spec.k < 1 || spec.k % w4_group != 0 || (wgmma && spec.n % 8 != 0)) {
    why = needs + (wgmma ? "n, a multiple of 8, and k, a multiple of 128" : "n ≥ 1 and k, a multiple of 128");
  } else if (std::max(rows, spec.slots) >= (std::int64_t{1} << 28) || spec.n >= (1 << 28) ||
             spec.k >= (1 << 28)) {
    why = needs + "fewer rows or features: indices are 32 bits wide";
  } else {
    return std::make_unique<W4GemmCase>(spec, wgmma);
  }
  return nullptr;
}

}  // namespace orrery::kernels
