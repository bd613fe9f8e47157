// The price of a step that several attention ranks run together. Every rank runs what stands over the tokens
// of all ranks, and waits there for the slowest; layers are alike, so the rank that is slowest in one is
// slowest in all, and the step is as long as the longest rank.
#include <algorithm>

#include "base/mutation.h"
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

bool alike(const StepShape& a, const StepShape& b) {
  return a.decode_sequences == b.decode_sequences && a.decode_context_tokens == b.decode_context_tokens &&
         a.new_requests == b.new_requests && a.running == b.running && a.draft_tokens == b.draft_tokens &&
         std::equal(a.prefill.begin(), a.prefill.end(), b.prefill.begin(), b.prefill.end());
}

bool idle(const StepShape& shape) { return shape.prefill.empty() && shape.decode_sequences == 0; }

// Whether a rank before `i` looks the same.
bool seen(std::span<const StepShape> ranks, std::size_t i) {
  return std::any_of(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(i),
                     [&](const StepShape& other) { return alike(other, ranks[i]); });
}

void take_longer(StepTiming& t, const StepTiming& other) {
  t.schedule = std::max(t.schedule, other.schedule);
  t.prepare = std::max(t.prepare, other.prepare);
  t.launch = std::max(t.launch, other.launch);
  t.busy = std::max(t.busy, other.busy);
  t.first_kernel = std::max(t.first_kernel, other.first_kernel);
  t.step_gap = std::max(t.step_gap, other.step_gap);
  t.last_kernel = std::max(t.last_kernel, other.last_kernel);
  t.copy = std::max(t.copy, other.copy);
  t.update = std::max(t.update, other.update);
  t.gap = std::max(t.gap, other.gap);
  t.needs_tokens |= other.needs_tokens;
}

}  // namespace

std::int32_t StepPricer::ranks() const { return state_->padding.ranks(); }
bool StepPricer::ranks_share_slots() const { return state_->padding.ranks_share_slots(); }

StepTiming StepPricer::price_joint(std::span<const StepShape> ranks) const {
  const JointStep joint = state_->padding.join(ranks);
  StepTiming t;
  bool first = true;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (idle(ranks[i]) || seen(ranks, i)) continue;
    const StepTiming own = state_->price(ranks[i], state_->padding.pad(ranks[i], joint));
    if (first || !ORRERY_MUTANT(no_barrier_between_ranks)) take_longer(t, own);
    first = false;
  }
  return t;
}

StepTiming StepPricer::price_joint_pass() const {
  StepTiming t;
  t.schedule = round_half_even(state_->host.schedule_base + state_->host.rank_sync);
  return t;
}

std::vector<DecodeLine> StepPricer::joint_decode_lines(std::span<const StepShape> ranks) const {
  const JointStep joint = state_->padding.join(ranks);
  std::vector<DecodeLine> lines;
  StepTiming t;
  for (const StepShape& rank : ranks) {
    if (idle(rank)) {
      lines.push_back({});
      continue;
    }
    lines.push_back(state_->decode_line(rank, state_->padding.pad(rank, joint)));
    take_longer(t, lines.back().timing);
  }
  for (DecodeLine& line : lines) line.timing = t;
  return lines;
}

}  // namespace orrery
