// Greedy sampling: logits are copied to fp32, then one argmax per row (../shared/reference/vllm_0_24.md §7).
#include "costmodel/op_table.h"
#include "costmodel/ops/common.h"

namespace orrery {

namespace {
// The model runners of one engine sample differently.
std::string variant(const char* name, const OpSpec& spec) {
  return std::string(name) + (spec.variant.empty() ? "" : "_" + spec.variant);
}
}  // namespace

std::unique_ptr<Operator> make_logits_copy(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, static_cast<double>(spec.n) * (2 + 4), 0, 1,
                                          RowTable{variant("logits_copy", spec), spec.n});
}

// vLLM's LogitsProcessor divides, takes the tanh and multiplies, each a kernel of its own that reads and
// writes the logits (layers/logits_processor.py of 0.24.0).
std::unique_ptr<Operator> make_softcap_logits(const OpSpec& spec, const Roofline& roofline) {
  constexpr double passes = 3;
  return std::make_unique<StreamOperator>(spec, roofline, passes * static_cast<double>(spec.n) * (2 + 2), 0,
                                          passes);
}

std::unique_ptr<Operator> make_argmax(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, static_cast<double>(spec.n) * 4, 0, 1,
                                          RowTable{variant("argmax", spec), spec.n});
}

// Drafts against what the model sampled: a row's token ids and its place, two small kernels
// (`rejection_sampler.py`: greedy drafts).
std::unique_ptr<Operator> make_verify_drafts(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, 32, 0, 2);
}

// One row's share of the bookkeeping is a few dozen bytes; what counts is that there are two dozen kernels.
std::unique_ptr<Operator> make_step_inputs(const OpSpec& spec, const Roofline& roofline) {
  return std::make_unique<StreamOperator>(spec, roofline, 64, 0, 24,
                                          RowTable{variant("step_inputs", spec), 1});
}

}  // namespace orrery
