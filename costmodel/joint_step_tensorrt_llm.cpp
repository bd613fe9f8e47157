// How TensorRT-LLM 1.2 pads the ranks of attention data parallelism together
// (pyexecutor/cuda_graph_runner.py,
// `_get_padded_batch` and `maybe_get_cuda_graph`; ../shared/reference/tensorrt_llm_1_2.md §5, "ADP").
#include <algorithm>

#include "costmodel/padding.h"

namespace orrery {

// A graph needs generations alone on every rank: all round the largest batch up, or without padding have
// equal ones. With a prompt anywhere all are padded to one piecewise graph, where there are such that hold
// the largest batch (model_engine.py, `_get_padding_params`). Otherwise everybody runs kernel by kernel over
// exactly its tokens. Who has nothing runs a dummy row (`_pad_attention_dp_dummy_request`).
JointStep GraphPadding::join_batches(std::span<const StepShape> ranks) const {
  JointStep step;
  std::int64_t sum = 0, most = 0, least = INT64_MAX;
  bool prompts = false;
  for (const StepShape& rank : ranks) {
    const bool idle = rank.prefill.empty() && rank.decode_sequences == 0;
    const std::int64_t tokens = idle ? 1 : pad_alone(rank).real_tokens;
    prompts |= !rank.prefill.empty();
    most = std::max(most, tokens);
    least = std::min(least, tokens);
    sum += tokens;
  }
  step.prompts = prompts;
  const std::int64_t size = (prompts ? prefill_ : all_).above(most);
  if (size > 0 && (pads_ || prompts || (size == most && least == most))) {
    step.mode = prompts ? GraphMode::piecewise : GraphMode::full;
    step.rank_tokens = size;
    step.gathered = joint_.ranks * size;
  } else {
    step.gathered = sum;
  }
  return step;
}

}  // namespace orrery
