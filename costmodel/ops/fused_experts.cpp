// A whole fused expert layer as engines' tables time it: rows sorted by expert, both products with the
// activation between them, quantisation where the format needs it, weighted sum. n = hidden width, k = expert
// width.
#include "costmodel/moe.h"
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {

class FusedExpertsOperator : public Operator {
 public:
  FusedExpertsOperator(const OpSpec& spec, const Roofline& roofline) : spec_(spec), roofline_(roofline) {
    ORRERY_CHECK(roofline.kernels() != nullptr, "a fused expert layer is priced from a table");
    fitted_ = roofline.kernels()->experts(spec.format.label, shape());
    ORRERY_CHECK(fitted_.has_value(), "the step graph asked for a table that is not there");
  }

  OpCost cost(const StepInput& input) const override {
    const double tokens = static_cast<double>(input.tokens);
    const double ranks = static_cast<double>(spec_.expert_ranks);
    const double rows = tokens * static_cast<double>(spec_.experts_per_token) / ranks;
    const double distinct = expected_distinct_experts(static_cast<double>(spec_.experts),
                                                      static_cast<double>(spec_.experts_per_token), tokens) /
                            ranks;
    const double n = static_cast<double>(spec_.n), k = static_cast<double>(spec_.k);
    OpCost cost;
    cost.flops = 6 * rows * n * k;
    cost.bytes = distinct * 3 * n * k * spec_.format.bytes_per_parameter;
    cost.compute_ns = cost.flops / roofline_.matrix_rate(spec_.format.math);
    cost.memory_ns = cost.bytes / roofline_.bandwidth();
    price_from_table(cost, *roofline_.kernels(), "experts", spec_.format.label, *fitted_, tokens,
                     experts_bound_ns(roofline_.rates(), spec_.format.label, shape(), rows, distinct));
    return cost;
  }

  std::string shape_text(const StepInput& input) const override {
    return "tokens=" + std::to_string(input.tokens) + " experts=" + std::to_string(spec_.experts) + " top " +
           std::to_string(spec_.experts_per_token) + " " + std::to_string(spec_.n) + "x" +
           std::to_string(spec_.k) + " " + spec_.format.label;
  }
  KernelClass kernel_class() const override { return roofline_.grouped_class(spec_.format); }

 private:
  ExpertShape shape() const { return {spec_.n, spec_.k, spec_.experts, spec_.experts_per_token}; }

  OpSpec spec_;
  const Roofline& roofline_;
  std::optional<FittedCurve> fitted_;
};

}  // namespace

std::unique_ptr<Operator> make_fused_experts(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<FusedExpertsOperator>(spec, roofline);
}

}  // namespace orrery
