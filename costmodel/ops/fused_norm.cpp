// What an all-reduce in one kernel with the residual add and norm behind it saves of the two: below zero.
// Saved: the norm's kernel but for a share of its start (its reductions) and what it still moves (the
// residual in and out, the normed row out); the all-reduce writes no sum and the norm reads none. That is
// what plain kernels of ours take on two H200 (docs/overlap.md). Where the norm had quantised its output and
// the fused kernel cannot, quantising is a kernel again. The all-reduce itself is taken to run as it does
// alone. n = row width, k = most tokens of a step.
#include <algorithm>
#include <limits>

#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

// How far the saving may be off, one standard deviation: no engine's fused kernel was timed.
constexpr double saving_error = 0.5;
// Of a norm of one row, what stays in the fused kernel: 0.40 to 0.46 in the same timings, up to 64 rows.
constexpr double share_of_start = 0.41;

class FusedNorm : public Operator {
 public:
  FusedNorm(const OpSpec& spec, const Roofline& roofline)
      : spec_(spec), roofline_(roofline), norm_(make_add_rms_norm(spec, roofline)) {
    if (spec.out_bytes < 2 && spec.own_rows) {
      OpSpec apart = spec;
      apart.own_rows = false;
      quantize_ = make_quantize(apart, roofline);
      apart.out_bytes = 2;
      plain_ = make_add_rms_norm(apart, roofline);
    }
  }

  OpCost cost(const StepInput& input) const override {
    OpCost cost;
    if (input.tokens > spec_.k) return cost;
    const double written = quantize_ != nullptr ? 2 : spec_.out_bytes;
    const double bytes = static_cast<double>(input.tokens) * static_cast<double>(spec_.n) * (2 * 2 + written);
    const double left =
        share_of_start * norm_ns(1) + roofline_.stream_ns(bytes, false, 0, KernelClass::elementwise);
    const double apart = norm_ns(input.tokens);
    cost.latency_ns = std::min(0.0, left - apart);
    cost.error = saving_error;
    return cost;
  }
  std::string shape_text(const StepInput& input) const override {
    const bool any = spec_.k == std::numeric_limits<std::int64_t>::max();
    return "rows=" + std::to_string(input.tokens) + (any ? "" : " of at most " + std::to_string(spec_.k));
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }

 private:
  // Of the kernel that goes: with quantising apart no more than a norm without.
  double norm_ns(std::int64_t tokens) const {
    StepInput input;
    input.tokens = input.own = tokens;
    const double whole = norm_->cost(input).ns();
    if (quantize_ == nullptr) return whole;
    return std::min(whole - quantize_->cost(input).ns(), plain_->cost(input).ns());
  }

  OpSpec spec_;
  const Roofline& roofline_;
  std::unique_ptr<Operator> norm_, quantize_, plain_;
};

}  // namespace

std::unique_ptr<Operator> make_fused_norm(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<FusedNorm>(spec, roofline);
}

}  // namespace orrery
