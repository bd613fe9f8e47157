// The operators of one engine step in launch order, as vLLM 0.24 launches them for a dense or MoE model with
// grouped-query attention under tensor parallelism (../shared/reference/vllm_0_24.md §7); under attention
// data parallelism as SGLang 0.5.23 spreads them (docs/parallel_plans.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/op_table.h"
#include "costmodel/operator.h"
#include "costmodel/roofline.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// Where in a layer with an exchange of experts' rows a node stands (costmodel/two_batches.h).
enum class LayerPart : std::uint8_t { other, inputs, attention, shared, dispatch, experts, combine };

// Of an MoE layer: shared experts, and what may run beside them (costmodel/overlapped_step.cpp).
enum class Branch : std::uint8_t { none, shared, routed };

struct GraphNode {
  std::string name;  // "qkv_proj": what it is in this model
  const OperatorEntry* entry = nullptr;
  OpSpec spec;
  std::int64_t count = 0;  // uses per step, all layers
  LayerPart part = LayerPart::other;
  Branch branch = Branch::none;
  bool draft = false;    // of the drafting network, which is launched by itself
  bool by_load = false;  // experts' rows are exchanged and popularity decides how many: no table holds it
  std::unique_ptr<Operator> op;
  std::int64_t kernels() const { return count * entry->launches; }
};

// vLLM's V1 model runner with a drafting network launches one by one what verifies drafts and what passes of
// the network need (v1/worker/gpu_model_runner.py, v1/sample/rejection_sampler.py, v1/spec_decode/
// llm_base_proposer.py of 0.24.0). Kernels and copies more than without drafts, counted in profiles of
// DeepSeek-V3's decode steps (reports/cases/h200_vllm_0_24_features): ahead of the model, behind its logits,
// around the first pass and around each further one.
struct V1DraftKernels {
  static constexpr double inputs = 20, verification = 24, first_pass = 31, next_pass = 21;
};
inline bool drafts_by_v1(const InstanceSpec& spec) {
  return spec.engine.engine == "vllm" && spec.engine.runner == "v1" && spec.speculation.has_network();
}

// Kernels that SGLang launches around a verification of a tree (eagle_utils.py, spec_utils.py and the back
// ends of 0.5.23, counted in the sources): the best drafts, in the drafting network's graph; links, mask and
// the tables of what attends, one by one; the accepted path moved to the front, likewise.
struct TreeKernels {
  static constexpr double organizing = 6, building = 4, cascade_tables = 12, masked_tables = 4,
                          committing = 11;
  static constexpr double tables(TreeAttention attention) {
    return attention == TreeAttention::cascade ? cascade_tables : masked_tables;
  }
};

// The nodes keep a reference to `roofline`. Errors: heads or widths that the plan does not divide, a type
// that the part cannot multiply, links that the plan needs and the part lacks.
Result<std::vector<GraphNode>> build_step_graph(const InstanceSpec& spec, const Roofline& roofline);

}  // namespace orrery
