// How vLLM 0.24 pads the ranks of a model with experts together: `coordinate_batch_across_dp` (v1/worker/
// dp_utils.py) for the V1 runner, `sync_cudagraph_and_dp_padding` (v1/worker/gpu/dp_utils.py) for V2.
#include <algorithm>

#include "base/mutation.h"
#include "costmodel/padding.h"

namespace orrery {

namespace {

// What a rank without work runs beside the others: one token (`execute_dummy_batch`).
StepShape dummy_batch() {
  StepShape shape;
  shape.decode_sequences = 1;
  return shape;
}

}  // namespace

// Each rank dispatches by itself; the least mode of all is everybody's. With a graph all take the size of the
// widest. Without one V1 keeps each rank's size, V2 each rank's tokens.
JointStep GraphPadding::join_graph_sizes(std::span<const StepShape> ranks) const {
  const StepShape dummy = dummy_batch();
  JointStep step;
  step.mode = GraphMode::full;
  std::int64_t sum = 0, widest = 0;
  for (const StepShape& rank : ranks) {
    const bool idle = rank.prefill.empty() && rank.decode_sequences == 0;
    const PaddedStep own = pad_alone(idle ? dummy : rank);
    if (!ORRERY_MUTANT(prompts_leave_other_ranks_graphs)) step.mode = std::max(step.mode, own.mode);
    widest = std::max(widest, own.tokens);
    sum += joint_.pads_eager ? own.tokens : own.real_tokens;
  }
  step.two_batches = joint_.two_batches.on && in_two_batches(ranks, widest);
  if (step.two_batches) {  // halves are captured whole or run kernel by kernel, all ranks' of one size
    if (step.mode != GraphMode::full) step.mode = GraphMode::none;
    step.rank_tokens = widest;
    step.gathered = joint_.ranks * widest;
  } else if (step.mode == GraphMode::none) {
    step.own_sizes = joint_.pads_eager;
    step.gathered = sum;
  } else {
    step.rank_tokens = widest;
    step.gathered = joint_.ranks * widest;
  }
  return step;
}

// `check_ubatch_thresholds` on every rank, and no rank's second half may be padding alone
// (`is_last_ubatch_empty`).
bool GraphPadding::in_two_batches(std::span<const StepShape> ranks, std::int64_t widest) const {
  const StepShape dummy = dummy_batch();
  for (const StepShape& rank : ranks) {
    const StepShape& runs = rank.prefill.empty() && rank.decode_sequences == 0 ? dummy : rank;
    const std::int64_t tokens = pad_alone(runs).real_tokens;
    if (tokens < (uniform(runs) ? joint_.two_batches.decodes_from : joint_.two_batches.prompts_from))
      return false;
    if (widest / 2 >= tokens) return false;
  }
  return true;
}

}  // namespace orrery
