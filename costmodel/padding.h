// Which CUDA graph a step runs in, and how many tokens its GEMMs then see
// (vLLM 0.24, `v1/cudagraph_dispatcher.py`: ../shared/reference/vllm_0_24.md §3).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "costmodel/engine_profile.h"
#include "costmodel/step_shape.h"

namespace orrery {

enum class GraphMode : std::uint8_t { full, piecewise, none };
const char* to_string(GraphMode mode);

struct PaddedStep {
  GraphMode mode = GraphMode::none;
  std::int64_t tokens = 0;  // after padding: what GEMMs, norms and experts see; attention sees real lengths
  std::int64_t real_tokens = 0;
  std::int64_t sequences = 0;
  std::int64_t drafting = 0;  // tokens of a pass of a drafting network over one token of each sequence,
                              // padded
  // Attention data parallelism: see JointStep.
  std::int64_t gathered = 0, gathered_rows = 0;
  bool by_sum = false;
  bool split_prompts = false;  // prompts are dealt to the ranks of context parallelism: `tokens` are a rank's
                               // rows, `gathered` all ranks'
  bool low_latency = false;    // of an exchange of experts' rows: which of its kernels
  std::int64_t busiest = 0;    // and the tokens of the rank that has most
  bool two_batches = false;    // the step runs in two halves
  bool launcher_agrees = false;  // vLLM: the ranks' exchange is part of the launch, not of the core's
                                 // schedule
  std::int64_t rows = 0;  // sampled: one a sequence and one a draft; not padded, logits are computed outside
                          // the graph
};

// What the ranks of an instance with attention data parallelism agree on for one step.
struct JointStep {
  GraphMode mode = GraphMode::none;
  std::int64_t rank_tokens = 0;    // that every rank is padded to; 0 = each keeps its own
  bool own_sizes = false;          // then: the graph size that it would have had alone, not its real tokens
  std::int64_t gathered = 0;       // rows that run over the tokens of all ranks
  std::int64_t gathered_rows = 0;  // of them, rows of the head
  bool by_sum = false;       // gathered and reduced by all-reduces over a sparse buffer, else all-gather and
                             // reduce-scatter
  bool prompts = false;      // some rank has one
  bool two_batches = false;  // every rank can run in two halves
  std::int64_t busiest = 0;  // where experts' rows are exchanged: padded tokens of the rank that has most
};

// By tokens (vLLM): FULL: every sequence brings exactly one token (a one-token tail of a prefill counts as
// such; with speculation one and all its drafts) and a captured size holds them. PIECEWISE: any other step
// that a captured size holds, if not only decodes may. NONE: real tokens, eager launches. By phase (SGLang,
// ../shared/reference/sglang_0_5.md §5.3, §5.4): FULL: no prompt in the step and a decode size holds it.
// PIECEWISE: a prompt in it, and a prefill size holds it that is not too much wider. An engine that does not
// pad runs every number of sequences without a graph of its own eagerly.
class GraphPadding {
 public:
  explicit GraphPadding(const SchedulerSettings& settings);
  // With ranks: the step of a rank beside others like it.
  PaddedStep pad(const StepShape& shape) const;
  // One shape a rank, idle ones without tokens. costmodel/joint_step.cpp
  JointStep join(std::span<const StepShape> ranks) const {
    JointStep step = join_by_rule(ranks);
    if (joint_.exchanges()) step.busiest = busiest(ranks, step);
    return step;
  }
  PaddedStep pad(const StepShape& shape, const JointStep& joint) const;
  std::int32_t ranks() const { return joint_.ranks; }
  bool ranks_share_slots() const { return joint_.deals_by_pass(); }
  std::int64_t largest() const { return std::max(all_.largest(), prefill_.largest()); }  // 0 = no graphs
  // Whether a prompt's chunk of one token is a decode to the device: dispatch looks at counts only.
  bool single_token_is_decode() const { return !by_phase_; }

 private:
  struct Sizes {
    std::vector<std::int32_t> next;  // next[t] = smallest captured size ≥ t, t in [0, largest]
    void fill(const std::vector<std::int64_t>& sizes);
    std::int64_t largest() const { return next.empty() ? 0 : static_cast<std::int64_t>(next.size()) - 1; }
    std::int64_t above(std::int64_t tokens) const {  // 0 = none
      return tokens > largest() || next.empty() ? 0 : next[static_cast<std::size_t>(tokens)];
    }
  };
  bool uniform(const StepShape& shape) const;
  struct JointTokens {
    std::int64_t sum = 0, most = 0, least = 0, sequences = 0;
    bool prompts = false;
  };
  JointStep join_by_rule(std::span<const StepShape> ranks) const;
  std::int64_t busiest(std::span<const StepShape> ranks, const JointStep& joint) const;
  std::int64_t rank_tokens(const StepShape& shape, const JointStep& joint) const;
  JointStep join_decodes(const JointTokens& t) const;
  JointStep join_prompts(std::span<const StepShape> ranks, const JointTokens& t) const;
  // What a rank's tokens are dealt to its GPUs in equal parts of.
  std::int64_t in_equal_parts(std::int64_t tokens) const {
    return (tokens + joint_.width - 1) / joint_.width * joint_.width;
  }
  JointStep join_graph_sizes(std::span<const StepShape> ranks) const;  // costmodel/joint_step_vllm.cpp
  JointStep join_batches(std::span<const StepShape> ranks) const;  // costmodel/joint_step_tensorrt_llm.cpp
  bool in_two_batches(std::span<const StepShape> ranks, std::int64_t widest) const;
  bool one_kind(std::span<const StepShape> ranks) const;
  PaddedStep pad_alone(const StepShape& shape) const;
  void deal_out(const StepShape& shape, PaddedStep& step) const;  // costmodel/context_price.cpp
  bool sum_fits(std::int64_t rows) const {
    return static_cast<double>(rows) * joint_.row_bytes <= joint_.sum_bytes;
  }

  std::int64_t without_drafts(std::int64_t sequences) const;
  std::int64_t drafting_above(std::int64_t sequences) const;

  Sizes all_, prefill_;  // by phase, all_ are those of decodes
  bool by_phase_ = false, pads_ = true, without_drafts_ = false, decodes_only_ = false;
  std::int64_t drafts_ = 0;  // of a decode in a full graph
  double widest_ = 0;
  JointSettings joint_;
  ContextSettings context_;
};

}  // namespace orrery
