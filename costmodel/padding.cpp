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

void GraphPadding::Sizes::fill(const std::vector<std::int64_t>& sizes) {
  if (sizes.empty()) return;
  next.assign(static_cast<std::size_t>(sizes.back()) + 1, 0);
  std::size_t filled = 0;
  for (const std::int64_t size : sizes) {
    ORRERY_CHECK(size >= 1 && size <= sizes.back(), "captured graph sizes must be positive and ascending");
    for (; filled <= static_cast<std::size_t>(size); ++filled) next[filled] = static_cast<std::int32_t>(size);
  }
}

GraphPadding::GraphPadding(const SchedulerSettings& settings)
    : by_phase_(settings.graphs_by_phase), pads_(settings.pad_to_graph), drafts_(settings.draft_tokens),
      widest_(settings.widest_padding) {
  if (settings.enforce_eager) return;
  all_.fill(settings.cudagraph_sizes);
  prefill_.fill(settings.prefill_graph_sizes);
}

// Counts only: a prompt's chunk of as many tokens as a decode brings is one.
bool GraphPadding::uniform(const StepShape& shape) const {
  if (shape.draft_tokens != drafts_ * shape.decode_sequences) return false;
  return std::all_of(shape.prefill.begin(), shape.prefill.end(),
                     [&](const PrefillChunk& chunk) { return chunk.new_tokens == 1 + drafts_; });
}

PaddedStep GraphPadding::pad(const StepShape& shape) const {
  PaddedStep step;
  step.sequences = shape.decode_sequences + static_cast<std::int64_t>(shape.prefill.size());
  step.rows = step.sequences + shape.draft_tokens;
  step.drafting = std::max(step.sequences, all_.above(step.sequences));
  std::int64_t tokens = std::int64_t{shape.decode_sequences} + shape.draft_tokens;
  for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.new_tokens;
  step.real_tokens = step.tokens = tokens;
  const bool prefill = by_phase_ && !shape.prefill.empty();
  const std::int64_t size = (prefill ? prefill_ : all_).above(tokens);
  if (size == 0 || (!pads_ && size != tokens)) return step;
  if (prefill && static_cast<double>(size) > widest_ * static_cast<double>(tokens)) return step;
  step.tokens = size;
  step.mode = uniform(shape) && !prefill ? GraphMode::full : GraphMode::piecewise;
  return step;
}

}  // namespace orrery
