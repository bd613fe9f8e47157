// How the ranks of attention data parallelism are padded together. SGLang 0.5.23: the votes of
// managers/scheduler_components/dp_attn.py, DpPaddingMode of layers/dp_attention.py, and
// ForwardBatch.prepare_mlp_sync_batch (model_executor/forward_batch_info.py).
#include <algorithm>

#include "base/mutation.h"
#include "costmodel/padding.h"

namespace orrery {

namespace {

std::int64_t tokens_of(const StepShape& shape) {
  std::int64_t tokens = std::int64_t{shape.decode_sequences} + shape.draft_tokens;
  for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.new_tokens;
  return tokens;
}

std::int64_t sequences_of(const StepShape& shape) {
  return shape.decode_sequences + static_cast<std::int64_t>(shape.prefill.size());
}

}  // namespace

JointStep GraphPadding::join_by_rule(std::span<const StepShape> ranks) const {
  ORRERY_CHECK(static_cast<std::int32_t>(ranks.size()) == joint_.ranks, "one shape a rank");
  if (joint_.deals_by_pass()) return join_batches(ranks);
  if (joint_.gathers_experts()) return join_graph_sizes(ranks);
  JointTokens t;
  t.least = in_equal_parts(tokens_of(ranks.front()));
  for (const StepShape& rank : ranks) {
    const std::int64_t tokens = in_equal_parts(tokens_of(rank));  // before the mode is chosen
    t.sum += tokens;
    t.most = std::max(t.most, tokens);
    t.least = std::min(t.least, tokens);
    t.sequences += sequences_of(rank);
    t.prompts |= !rank.prefill.empty();
  }
  ORRERY_CHECK(t.sum > 0, "a joint step without tokens has no price");
  JointStep step = t.prompts && !ORRERY_MUTANT(prompts_leave_other_ranks_graphs) ? join_prompts(ranks, t)
                                                                                 : join_decodes(t);
  step.two_batches = joint_.two_batches.on && !(t.prompts && joint_.low_latency(true)) && one_kind(ranks);
  return step;
}

// Two batches run when all ranks with work have the same kind of it
// (`TboDPAttentionPreparer.compute_output`).
bool GraphPadding::one_kind(std::span<const StepShape> ranks) const {
  const auto kind = [](const StepShape& s) {
    return (s.prefill.empty() ? 0 : 2) + (s.decode_sequences > 0 ? 1 : 0);
  };
  int seen = 0;
  for (const StepShape& rank : ranks) {
    const int own = kind(rank);
    if (own != 0 && seen != 0 && own != seen) return false;
    if (own != 0) seen = own;
  }
  return true;
}

// Decode graphs hold the same number of rows of every rank; idle ranks replay them too. Inside a graph the
// way to gather was chosen at capture (`get_default_mode_in_cuda_graph`), from padded counts.
JointStep GraphPadding::join_decodes(const JointTokens& t) const {
  JointStep step;
  const std::int64_t size = all_.above(t.most);
  if (size > 0 && (pads_ || size == t.most)) {
    step.mode = GraphMode::full;
    step.rank_tokens = size;
    step.gathered = step.gathered_rows = joint_.ranks * size;
    step.by_sum = sum_fits(step.gathered);
    return step;
  }
  step.gathered_rows = t.sequences;
  const bool unequal = 2 * t.sum < t.most * joint_.ranks;  // the cheaper of the two, by rows moved
  step.by_sum = (t.least > 0 && sum_fits(t.sum)) || unequal;
  step.rank_tokens = step.by_sum ? 0 : t.most;
  step.gathered = step.by_sum ? t.sum : joint_.ranks * t.most;
  return step;
}

// A prompt anywhere takes the decode graphs from all. They replay one prefill graph together when every rank
// has tokens and a size for them; else all run eagerly over exactly their tokens.
JointStep GraphPadding::join_prompts(std::span<const StepShape> ranks, const JointTokens& t) const {
  JointStep step;
  step.prompts = true;
  step.gathered_rows = t.sequences;
  const bool graph = t.least > 0 && std::all_of(ranks.begin(), ranks.end(), [&](const StepShape& rank) {
                       const std::int64_t tokens = tokens_of(rank), size = prefill_.above(tokens);
                       return size > 0 && static_cast<double>(size) <= widest_ * static_cast<double>(tokens);
                     });
  if (graph) {
    step.mode = GraphMode::piecewise;
    step.rank_tokens = prefill_.above(t.most);
    step.gathered = joint_.ranks * step.rank_tokens;
    return step;
  }
  step.by_sum = true;
  step.gathered = t.sum;
  return step;
}

std::int64_t GraphPadding::rank_tokens(const StepShape& shape, const JointStep& joint) const {
  return joint.own_sizes ? pad_alone(shape).tokens
                         : std::max(in_equal_parts(tokens_of(shape)), joint.rank_tokens);
}

std::int64_t GraphPadding::busiest(std::span<const StepShape> ranks, const JointStep& joint) const {
  std::int64_t most = 0;
  for (const StepShape& rank : ranks) {
    const bool idle = rank.prefill.empty() && rank.decode_sequences == 0;
    if (!idle) most = std::max(most, rank_tokens(rank, joint));
  }
  return most;
}

PaddedStep GraphPadding::pad(const StepShape& shape, const JointStep& joint) const {
  PaddedStep step;
  step.mode = joint.mode;
  step.sequences = sequences_of(shape);
  step.rows = step.sequences + shape.draft_tokens;
  step.drafting = shape.without_drafting ? 0 : step.sequences;
  step.real_tokens = tokens_of(shape);
  step.tokens = rank_tokens(shape, joint);
  step.gathered = joint.gathered;
  step.gathered_rows = joint.gathered_rows;
  step.by_sum = joint.by_sum;
  step.low_latency = joint_.low_latency(joint.prompts);
  step.busiest = joint.busiest;
  step.two_batches = joint.two_batches;
  step.launcher_agrees = joint_.runs_in_waves();
  return step;
}

}  // namespace orrery
