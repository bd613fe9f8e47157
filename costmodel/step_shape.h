// What a step looks like to a device. The cost model and the kernels consume the same shape, so that
// padding and graph-capture choices cannot diverge silently.
#pragma once

#include <cstdint>
#include <span>

namespace orrery {

// New tokens of one sequence that extend its prompt (or re-computed prefix).
struct PrefillChunk {
  std::int32_t new_tokens = 0;  // ≥ 1
  std::int64_t context = 0;     // tokens of this sequence already in the KV cache before the step
  friend bool operator==(const PrefillChunk&, const PrefillChunk&) = default;
};

struct StepShape {
  std::span<const PrefillChunk> prefill;   // in schedule order
  std::int32_t decode_sequences = 0;       // one new token each
  std::int64_t decode_context_tokens = 0;  // sum over the decodes of tokens in the KV cache before the step
  std::int32_t new_requests = 0;           // admitted in this step (host cost only)
  // Sequences in the scheduler's running list (host cost only); 0 = those scheduled.
  std::int32_t running = 0;
  // Drafts that the decodes verify in this step, beyond their one token each (speculation).
  std::int32_t draft_tokens = 0;
  bool without_drafting = false;  // the drafting network, if there is one, does not run
  // What the loads of this very step decide of its time (Q20 nanoseconds, all layers): the products of the
  // experts and the exchange of their rows; of a step in two halves how much longer it takes than the pricer
  // expects. Or all as the pricer expects it at the run's first instant.
  static constexpr std::int64_t as_expected = INT64_MIN;
  std::int64_t expert_q20 = as_expected;
};

}  // namespace orrery
