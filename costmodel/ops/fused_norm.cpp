// What an all-reduce in one kernel with the residual add and norm behind it saves of the two: below zero.
// Saved: the norm's kernel but for what it still moves (the residual in and out, the normed row out); the
// all-reduce writes no sum and the norm reads none. Where the norm had quantised its output and the fused
// kernel cannot, quantising is a kernel again. The all-reduce itself is taken to run as it does alone.
// n = row width, k = most tokens of a step.
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// How far the saving may be off, one standard deviation: no fused kernel was timed (docs/overlap.md).
constexpr double saving_error = 0.5;

class FusedNorm : public Operator {
 public:
  FusedNorm(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), norm_(make_add_rms_norm(spec, roofline)) {
    if (spec.out_bytes < 2 && spec.own_rows) {
      OpSpec quantize = spec;
      quantize.own_rows = false;
      quantize_ = make_quantize(quantize, roofline);
    }
  }

  OpCost cost(const StepInput& input) const override {
    OpCost cost;
    if (input.tokens > spec_.k) return cost;
    StepInput rows = input;
    rows.own = input.tokens;
    const double written = quantize_ != nullptr ? 2 : spec_.out_bytes;
    const double bytes = static_cast<double>(input.tokens) * static_cast<double>(spec_.n) * (2 * 2 + written);
    const double left =
        roofline_.stream_ns(bytes, roofline_.stays_in_cache(bytes), 0, KernelClass::elementwise);
    const double apart = norm_->cost(rows).ns() - (quantize_ != nullptr ? quantize_->cost(rows).ns() : 0);
    cost.latency_ns = left - apart;
    cost.error = saving_error;
    return cost;
  }
  std::string shape_text(const StepInput& input) const override {
    return "rows=" + std::to_string(input.tokens) + " of at most " + std::to_string(spec_.k);
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }

 private:
  OpSpec spec_;
  const Roofline& roofline_;
  std::unique_ptr<Operator> norm_, quantize_;
};

}  // namespace

std::unique_ptr<Operator> make_fused_norm(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<FusedNorm>(spec, roofline);
}

}  // namespace orrery
