// Greedy sampling: logits are copied to fp32, then one argmax per row (../shared/reference/vllm_0_24.md §7).
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

std::unique_ptr<Operator> make_logits_copy(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, static_cast<double>(spec.n) * (2 + 4));
}

std::unique_ptr<Operator> make_argmax(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, static_cast<double>(spec.n) * 4);
}

}  // namespace orrery
