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
