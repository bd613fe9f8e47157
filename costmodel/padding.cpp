#include "costmodel/padding.h"

namespace orrery {

const char* to_string(GraphMode mode) {
  switch (mode) {
    case GraphMode::full: return "full";
    case GraphMode::piecewise: return "piecewise";
    case GraphMode::none: break;
  }
  return "none";
}

GraphPadding::GraphPadding(const SchedulerSettings& settings)
    : by_phase_(settings.graphs_by_phase), pads_(settings.pad_to_graph) {
  if (settings.enforce_eager || settings.cudagraph_sizes.empty()) return;
  largest_ = settings.cudagraph_sizes.back();
  next_.assign(static_cast<std::size_t>(largest_) + 1, 0);
  std::size_t filled = 0;
  for (const std::int64_t size : settings.cudagraph_sizes) {
    ORRERY_CHECK(size >= 1 && size <= largest_, "captured graph sizes must be positive and ascending");
    for (; filled <= static_cast<std::size_t>(size); ++filled)
      next_[filled] = static_cast<std::int32_t>(size);
  }
}

PaddedStep GraphPadding::pad(const StepShape& shape) const {
  PaddedStep step;
  step.sequences = shape.decode_sequences + static_cast<std::int64_t>(shape.prefill.size());
  std::int64_t tokens = shape.decode_sequences;
  for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.new_tokens;
  step.real_tokens = step.tokens = tokens;
  if (tokens > largest_ || (by_phase_ && !shape.prefill.empty())) return step;
  if (!pads_ && next_[static_cast<std::size_t>(tokens)] != tokens) return step;
  step.tokens = next_[static_cast<std::size_t>(tokens)];
  step.mode = tokens == step.sequences ? GraphMode::full : GraphMode::piecewise;
  return step;
}

}  // namespace orrery
