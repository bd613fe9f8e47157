// What steps put on links that others use, and what they and copies take longer there.
#include <algorithm>

#include "sim/costed/cost_model_executor.h"

namespace orrery {

// Returns the step's busy time with what its traffic takes longer, and notes what it leaves to flows.
std::int64_t CostModelExecutor::share_step(const Engine& e, std::span<const StepShape> ranks,
                                           std::int64_t busy, SimTime now) {
  const std::size_t instance = first_instance_ + index_of(e);
  const LinkUse use = e.pricer->link_use(ranks, shared_->pace(instance, now));
  const std::int64_t longer = round_half_even(use.more_ns);
  note_use(instance, use, busy + longer, now);
  return busy + longer;
}

void CostModelExecutor::note_use(std::size_t instance, const LinkUse& use, std::int64_t busy, SimTime now) {
  const auto ns = static_cast<double>(busy);
  if (busy <= 0) return;
  const double inside = shared_->bytes_of(instance, inside_side(), use.inside_ns);
  shared_->demand(instance, inside_side(), inside * 1e9 / ns, now);
  shared_->demand(instance, network_side(), use.network_bytes * 1e9 / ns, now);
}

// None runs beside flows, so nothing takes longer. Flows that begin with it meet its first step, those that
// begin when it has ended its last; `busy` is that step's.
void CostModelExecutor::share_stretch(const Engine& e, std::int64_t busy, SimTime now) {
  const Stretch& s = e.stretch;
  std::vector<StepShape> ranks = stretch_shapes(s.ranks, true);
  if (ranks.empty()) {
    ranks.emplace_back();
    ranks.front().decode_sequences = s.decodes;
    ranks.front().decode_context_tokens = s.context;
    ranks.front().running = s.running;
  }
  share_step(e, ranks, busy, now);
}

// Of the stages of `staged_`: collectives of each on its own links, hand-offs on theirs.
void CostModelExecutor::share_stages(const Engine& e, const StepShape& shape, SimTime now) {
  const std::size_t instance = first_instance_ + index_of(e);
  for (std::size_t i = 0; i < staged_.stages.size(); ++i) {
    StageTiming& stage = staged_.stages[i];
    const std::int64_t alone = stage.busy + stage.handoff;
    for (const bool handoff : {false, true}) {
      if (handoff && i == 0) continue;
      const std::size_t side = handoff ? network_side(i) : inside_side(i);
      if (shared_->side(instance, side).links.empty()) continue;
      const LinkPace::Side pace = shared_->pace(instance, side, now);
      const LinkUse use = e.pricer->stage_link_use(i, shape, {.inside = pace, .network = pace}, handoff);
      (handoff ? stage.handoff : stage.busy) += round_half_even(use.more_ns);
      const double bytes =
          use.network_bytes > 0 ? use.network_bytes : shared_->bytes_of(instance, side, use.inside_ns);
      shared_->demand(instance, side, bytes * 1e9 / static_cast<double>(std::max<std::int64_t>(1, alone)),
                      now);
    }
  }
}

// When a copy ends that is waited for.
SimTime CostModelExecutor::copied(std::size_t instance, const TransferWork& work, SimTime ready,
                                  SimTime now) {
  if (work.blocks == 0) return ready;
  if (!copies_on_fabric(instance)) return links_[instance].end_of(work, ready);
  return fabric_->copy_foretold(first_instance_ + instance, work, ready, now);
}

void CostModelExecutor::take_copies() {
  std::vector<TransferDone> done;
  fabric_->take_copies(first_instance_, engines_.size(), done);
  for (const TransferDone& d : done) {
    transfers_.push_back(d);
    std::push_heap(transfers_.begin(), transfers_.end(), done_later);
  }
}

}  // namespace orrery
