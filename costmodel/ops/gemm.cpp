// Dense matrix product: out[m×n] = in[m×k] · weights[n×k]ᵀ, output in the activation type.
#include <algorithm>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"
#include "costmodel/product_rows.h"

namespace orrery {

namespace {

// Products of 16-bit inputs and four-bit weights as Marlin makes them (csrc/quantization/gptq_marlin/
// gptq_marlin.cu): tiles of 16 rows for each 16 of the batch up to 64, of 64 above (thread_m_blocks); blocks
// share the steps of all tiles along k evenly (stripes), so that no wave is half empty. A warp turns the
// weights of a step into 16 bits and then multiplies them, by mma.sync: both times add up.
double marlin_rows(std::int64_t m) {
  const std::int64_t tile = m <= 64 ? 16 : 64;
  return static_cast<double>((m + tile - 1) / tile * tile);
}
// Of Hopper's matrix rate what mma.sync reaches (Luo et al., "Benchmarking and Dissecting the Nvidia Hopper
// GPU Architecture via Microbenchmarking", 2024); on Ada the class's
// efficiency is near.
constexpr double warp_products = 0.62;
// Bytes/ns of weights that a unit turns into 16 bits. Derived from published timings of Marlin's experts on
// an H200 (../shared/data/aiconfigurator, vLLM 0.24.0, 7,168 × 2,048, 384 experts, one GPU): from 32 to 64
// experts of a row each, 727 MB in 230 µs over 132 units, less their products. (The H100's, 266 µs, is its
// memory's.)
constexpr double unit_conversion = 35.8;

class GemmOperator : public Operator {
 public:
  GemmOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), class_(roofline.gemm_class(spec.format)) {
    if (roofline.kernels() != nullptr) fitted_ = roofline.kernels()->gemm(spec.format.label, spec.n, spec.k);
  }

  OpCost cost(const StepInput& input) const override {
    const std::int64_t asked = rows_of(spec_, input), m = launched(asked);
    const double rows = static_cast<double>(m);
    const double n = static_cast<double>(spec_.n);
    const double k = static_cast<double>(spec_.k);
    OpCost cost;
    cost.flops = 2 * static_cast<double>(asked) * n * k;
    cost.compute_ns = compute_ns(m);
    const double weights = n * k * spec_.format.bytes_per_parameter;
    const double of_row = k * spec_.format.activation_bytes + n * spec_.out_bytes,
                 activations = rows * of_row;
    const bool cached = roofline_.stays_in_cache(activations);
    cost.bytes = weights + (cached ? 0 : static_cast<double>(asked) * of_row);
    cost.memory_ns = roofline_.stream_ns(activations, cached, weights, KernelClass::memory);
    cost.latency_ns = gemm_start * roofline_.kernel_floor_ns();
    const KernelLaws* const laws = roofline_.laws();
    const bool by_law = laws != nullptr && laws->product && laws->product->holds(spec_.format.label, m);
    if (fitted_ && !(by_law && !laws->product->least)) {
      price_from_table(cost, *roofline_.kernels(), "gemm", spec_.format.label, *fitted_, rows,
                       gemm_bound_ns(roofline_.rates(), spec_.format.label, rows, n, k));
    }
    if (by_law) {
      const double ns =
          laws->product->ns(roofline_.units(), m, spec_.n, spec_.k, spec_.format.bytes_per_parameter);
      if (!laws->product->least || ns > cost.ns())
        price_from_law(cost, *laws, roofline_.part(), ns, laws->product->error);
    }
    // Efficiencies are of matrix units; products in fp32 run on the others, which nobody timed.
    if (spec_.format.math == DType::fp32) cost.error = 2 * roofline_.error(class_);
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "m=" + std::to_string(launched(rows_of(spec_, input))) + " n=" + std::to_string(spec_.n) +
           " k=" + std::to_string(spec_.k) + " " + spec_.format.label;
  }
  KernelClass kernel_class() const override { return class_; }

 private:
  std::int64_t launched(std::int64_t rows) const {
    return spec_.variant == "rounded" ? launched_product_rows(rows) : rows;
  }

  double compute_ns(std::int64_t m) const {
    const double efficiency = roofline_.efficiency(class_);
    const bool four_bits = spec_.format.stored == DType::int4 && spec_.format.activation_bytes == 2;
    if (!four_bits || !roofline_.has_marlin())
      return roofline_.tiled_ns(m, spec_.n, spec_.k, spec_.format.math, efficiency);
    const double weights = static_cast<double>(spec_.n) * static_cast<double>(spec_.k);
    const double rate = roofline_.matrix_rate(spec_.format.math) * std::min(efficiency, warp_products);
    const double conversion = static_cast<double>(roofline_.units()) * unit_conversion;
    return 2 * marlin_rows(m) * weights / rate + weights * spec_.format.bytes_per_parameter / conversion;
  }

  OpSpec spec_;
  const Roofline& roofline_;
  KernelClass class_;
  std::optional<FittedCurve> fitted_;
};

}  // namespace

std::unique_ptr<Operator> make_gemm(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<GemmOperator>(spec, roofline);
}

}  // namespace orrery
