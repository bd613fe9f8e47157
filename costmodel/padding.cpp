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
    : by_phase_(settings.graphs_by_phase), pads_(settings.pad_to_graph),
      without_drafts_(settings.graphs_without_drafts), decodes_only_(settings.graphs_of_decodes_only),
      drafts_(settings.draft_tokens), widest_(settings.widest_padding), joint_(settings.joint),
      context_(settings.context) {
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

// By phase sizes are those of whole rows: sequences, each with its token and all drafts.
std::int64_t GraphPadding::drafting_above(std::int64_t sequences) const {
  return by_phase_ ? all_.above(sequences * (1 + drafts_)) / (1 + drafts_) : all_.above(sequences);
}

// Captured a second time with one token of each sequence, for steps in which nobody drafts; 0 = not captured.
std::int64_t GraphPadding::without_drafts(std::int64_t sequences) const {
  return without_drafts_ ? drafting_above(sequences) : 0;
}

PaddedStep GraphPadding::pad(const StepShape& shape) const {
  if (joint_.on()) {
    const std::vector<StepShape> alike(static_cast<std::size_t>(joint_.ranks), shape);
    return pad(shape, join(alike));
  }
  PaddedStep step = pad_alone(shape);
  if (context_.shares_prompts()) deal_out(shape, step);
  return step;
}

PaddedStep GraphPadding::pad_alone(const StepShape& shape) const {
  PaddedStep step;
  step.sequences = shape.decode_sequences + static_cast<std::int64_t>(shape.prefill.size());
  step.rows = step.sequences + shape.draft_tokens;
  step.drafting = shape.without_drafting ? 0 : std::max(step.sequences, drafting_above(step.sequences));
  std::int64_t tokens = std::int64_t{shape.decode_sequences} + shape.draft_tokens;
  for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.new_tokens;
  step.real_tokens = step.tokens = tokens;
  const bool prefill = by_phase_ && !shape.prefill.empty();
  const bool undrafted = by_phase_ && drafts_ > 0 && !prefill && shape.draft_tokens == 0;
  const std::int64_t size = undrafted ? without_drafts(tokens) : (prefill ? prefill_ : all_).above(tokens);
  if (size == 0 || (!pads_ && !prefill && size != tokens)) return step;
  if (decodes_only_ && !uniform(shape)) return step;
  if (prefill && static_cast<double>(size) > widest_ * static_cast<double>(tokens)) return step;
  step.tokens = size;
  step.mode = (undrafted || uniform(shape)) && !prefill ? GraphMode::full : GraphMode::piecewise;
  return step;
}

}  // namespace orrery
