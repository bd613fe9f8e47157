// Dense matrix product: out[m×n] = in[m×k] · weights[n×k]ᵀ, output in the activation type.
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// Rows that a product over 16-bit inputs and four-bit weights works for. Marlin's tiles have 16 rows for each
// 16 of the batch up to 64, and tiles of 64 above (csrc/quantization/gptq_marlin/gptq_marlin.cu:
// thread_m_blocks); its blocks share all tiles' steps along k evenly (stripes), so that no wave is half
// empty.
double marlin_rows(std::int64_t m) {
  const std::int64_t tile = m <= 64 ? 16 : 64;
  return static_cast<double>((m + tile - 1) / tile * tile);
}

class GemmOperator : public Operator {
 public:
  GemmOperator(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), class_(roofline.gemm_class(spec.format)) {
    if (roofline.kernels() != nullptr) fitted_ = roofline.kernels()->gemm(spec.format.label, spec.n, spec.k);
  }

  OpCost cost(const StepInput& input) const override {
    const std::int64_t m = rows_of(spec_, input);
    const double rows = static_cast<double>(m);
    const double n = static_cast<double>(spec_.n);
    const double k = static_cast<double>(spec_.k);
    OpCost cost;
    cost.flops = 2 * rows * n * k;
    const double efficiency = roofline_.efficiency(class_);
    const bool by_stripes = spec_.format.stored == DType::int4 && spec_.format.activation_bytes == 2;
    cost.compute_ns =
        by_stripes ? 2 * marlin_rows(m) * n * k / (roofline_.matrix_rate(spec_.format.math) * efficiency)
                   : roofline_.tiled_ns(m, spec_.n, spec_.k, spec_.format.math, efficiency);
    const double weights = n * k * spec_.format.bytes_per_parameter;
    const double activations = rows * (k * spec_.format.activation_bytes + n * spec_.out_bytes);
    const bool cached = roofline_.stays_in_cache(activations);
    cost.bytes = weights + (cached ? 0 : activations);
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
    return "m=" + std::to_string(rows_of(spec_, input)) + " n=" + std::to_string(spec_.n) +
           " k=" + std::to_string(spec_.k) + " " + spec_.format.label;
  }
  KernelClass kernel_class() const override { return class_; }

 private:
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
