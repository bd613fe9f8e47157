// Prompts of a plan as a step's shape has them.
#pragma once

#include <span>
#include <vector>

#include "costmodel/step_pricer.h"
#include "sim/step_plan.h"

namespace orrery {

// Appends a chunk for each prompt; one of a single token counts among the decodes where the engine's graphs
// take it for one. `shape.prefill` is the caller's to set: `chunks` may move while more are appended.
inline void add_prompts(std::span<const PrefillWork> prompts, const StepPricer& pricer, StepShape& shape,
                        std::vector<PrefillChunk>& chunks) {
  const bool fold = pricer.single_token_is_decode();
  for (const PrefillWork& w : prompts) {
    if (fold && w.new_tokens == 1) {
      ++shape.decode_sequences;
      shape.decode_context_tokens += w.context;
    } else {
      chunks.push_back({w.new_tokens, w.context});
    }
  }
}

}  // namespace orrery
