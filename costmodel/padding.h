// Which CUDA graph a step runs in, and how many tokens its GEMMs then see
// (vLLM 0.24, `v1/cudagraph_dispatcher.py`: ../shared/reference/vllm_0_24.md §3).
#pragma once

#include <cstdint>
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
  std::int64_t sequences = 0;  // sampled rows; not padded, logits are computed outside the graph
};

// Of an engine whose graphs hold no prompts any chunk makes the step eager, a tail of one token too; of one
// that does not pad, every number of sequences without a graph of its own.
//
// FULL: every sequence brings exactly one token (a one-token tail of a prefill counts as such) and a captured
// size holds them. PIECEWISE: any other step that a captured size holds. NONE: real tokens, eager launches.
class GraphPadding {
 public:
  explicit GraphPadding(const SchedulerSettings& settings);
  PaddedStep pad(const StepShape& shape) const;
  std::int64_t largest() const { return largest_; }  // 0 = no graphs
  // Whether a prompt's chunk of one token is a decode to the device: dispatch looks at counts only.
  bool single_token_is_decode() const { return !by_phase_; }

 private:
  std::int64_t largest_ = 0;
  bool by_phase_ = false, pads_ = true;
  std::vector<std::int32_t> next_;  // next_[t] = smallest captured size ≥ t, t in [0, largest]
};

}  // namespace orrery
