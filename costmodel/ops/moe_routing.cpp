// What an MoE layer does around its matrix products: choose experts, sort rows by expert, add results up.
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

// Softmax and top-k over the router's logits: reads E logits in fp32, writes k weights and k ids.
std::unique_ptr<Operator> make_topk(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(
      spec, roofline,
      4.0 * static_cast<double>(spec.experts) + 8.0 * static_cast<double>(spec.experts_per_token), 0, 1,
      RowTable{"topk", spec.experts, spec.experts_per_token});
}

// Group-limited top-k (DeepSeek): scores with their correction, groups' sums, then k of the best groups; one
// kernel, no table of its own. Which experts of a token are chosen together changes; how many rows an expert
// gets on average does not, and that is what the experts' price is made of.
std::unique_ptr<Operator> make_grouped_topk(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(
      spec, roofline,
      2 * 4.0 * static_cast<double>(spec.experts) + 8.0 * static_cast<double>(spec.experts_per_token));
}

namespace {
// vLLM 0.24's `grouped_topk` without a correction bias (DeepSeek-V2 and its Lite, whose groups may be one):
// tensor operations under torch.compile, not the fused kernel of models with a bias
// (layers/fused_moe/router/grouped_topk_router.py, `e_score_correction_bias is not None`). A softmax, the
// best groups, what masks the others, the best experts, and two casts; of several groups their scores and
// the mask's making too. A choice is priced as the fused kernel, which makes one, the others as starts.
class CompiledTopk : public Operator {
 public:
  CompiledTopk(const OpSpec& spec, const Roofline& roofline, bool grouped)
      : one_(make_topk(spec, roofline)), others_ns_((grouped ? 6 : 4) * roofline.kernel_floor_ns()) {}
  OpCost cost(const StepInput& input) const override {
    OpCost cost = one_->cost(input);
    cost.bytes *= 2;
    cost.memory_ns *= 2;
    cost.latency_ns = 2 * cost.latency_ns + others_ns_;
    if (cost.table_ns > 0) {
      cost.table_ns = 2 * cost.table_ns + others_ns_;
      not_its_own(cost);
    }
    return cost;
  }
  KernelClass kernel_class() const override { return KernelClass::elementwise; }
  std::string shape_text(const StepInput& input) const override { return one_->shape_text(input); }

 private:
  std::unique_ptr<Operator> one_;
  double others_ns_;
};
}  // namespace

std::unique_ptr<Operator> make_topk_compiled(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CompiledTopk>(spec, roofline, false);
}
std::unique_ptr<Operator> make_grouped_topk_compiled(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<CompiledTopk>(spec, roofline, true);
}

// moe_align_block_size: counts, then sorts row indices (two launches).
std::unique_ptr<Operator> make_moe_align(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, 12.0 * static_cast<double>(spec.experts_per_token),
                                          0, 2, RowTable{"moe_align", spec.experts, spec.experts_per_token});
}

// Weighted sum over a token's k expert outputs.
std::unique_ptr<Operator> make_moe_combine(const OpSpec& spec, const Roofline& roofline) {
  const double row = static_cast<double>(spec.n) * 2;
  return std::make_unique<StreamOperator>(spec, roofline,
                                          row * static_cast<double>(spec.experts_per_token + 1), 0, 1,
                                          RowTable{"moe_combine", spec.n, spec.experts_per_token});
}

std::unique_ptr<Operator> make_moe_copy(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, static_cast<double>(spec.n) * 4, 0, 1,
                                          RowTable{"moe_copy", spec.n});
}

}  // namespace orrery
