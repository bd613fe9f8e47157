// Who decodes in the step composed last, one by one (sim/step_plan.h, DecodingTokens). A walk over sequences,
// for whoever has to know; the schedulers themselves reckon with sums.
#include "sim/schedulers/sglang.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "sim/schedulers/vllm_v1.h"

namespace orrery {

void VllmV1Scheduler::append_decoding(std::vector<DecodingToken>& tokens) const {
  const std::int64_t step = next_step_ - 1;
  for (Slot slot = running_head_; slot != no_slot; slot = sequences_[slot].next) {
    const Sequence& s = sequences_[slot];
    if (s.state == State::decoding && s.first_decode <= step)  // others join behind their prompt's step
      tokens.push_back({.request = s.request, .place = s.base + step});
  }
}

void TensorRtLlmScheduler::append_decoding(std::vector<DecodingToken>& tokens) const {
  const std::int64_t step = next_step_ - 1;
  for (Slot slot = active_head_; slot != no_slot; slot = sequences_[slot].next) {
    const Sequence& s = sequences_[slot];
    if (s.state == State::decoding && s.base + step >= s.target)  // as above
      tokens.push_back({.request = s.request, .place = s.base + step});
  }
}

void SglangScheduler::append_decoding(std::vector<DecodingToken>& tokens) const {
  if (plan_decodes_ == 0) return;
  const std::int64_t decode = decodes_launched_ - 1;
  for (const Sequence& s : sequences_) {
    if (s.running && s.state == State::decoding)
      tokens.push_back({.request = s.request, .place = s.base + decode});
  }
}

}  // namespace orrery
