#include "sim/schedulers/tensorrt_llm_ranks.h"

#include <algorithm>
#include <tuple>

namespace orrery {

namespace {

// Nobody is asked: requests have their rank by deal().
class Undecided final : public RankBalancer {
 public:
  std::size_t choose(const Request&) override {
    ORRERY_CHECK(false, "requests are dealt out by passes");
    return 0;
  }
};

std::vector<std::unique_ptr<Scheduler>> make_ranks(SchedulerConfig config, std::int32_t ranks) {
  config.tensorrt_llm.dealt_to = true;
  std::vector<std::unique_ptr<Scheduler>> all;
  for (std::int32_t r = 0; r < ranks; ++r) all.push_back(std::make_unique<TensorRtLlmScheduler>(config));
  return all;
}

}  // namespace

TensorRtLlmRanks::TensorRtLlmRanks(const SchedulerConfig& config, std::int32_t ranks)
    : RankScheduler(make_ranks(config, ranks), std::make_unique<Undecided>()),
      rules_of_engine_(config.tensorrt_llm), fetches_all_(config.options.has("batch_wait_timeout_ms") &&
                                                          config.options.number("batch_wait_timeout_ms") > 0),
      most_active_(config.max_num_seqs * ranks), slots_of_rank_(config.max_num_seqs), dealt_(ranks_.size()),
      batches_(ranks_.size()) {
  for (const auto& rank : ranks_) schedulers_.push_back(static_cast<TensorRtLlmScheduler*>(rank.get()));
}

// ---------------------------------------------------------------------------------------------------- queue

SequenceId TensorRtLlmRanks::add(const Request& request) {
  if (schedulers_.front()->refuses(request)) return SequenceId::none();
  const bool idle = queue_.empty() && active() == static_cast<std::int64_t>(left_.size());
  if (idle && !fetches_all_) waits_in_get_ = true;
  const std::uint32_t slot = slots_.take(places_);
  places_[slot] = {.rank = nowhere, .local = {}, .request = request, .prompt = request.prompt_tokens};
  queue_.push_back(slot);
  return SequenceId(slot);
}

std::int64_t TensorRtLlmRanks::active() const {
  std::int64_t sum = 0;
  for (const Dealt& d : dealt_) sum += d.requests;
  return sum;
}

// `_fetch_new_requests`, `schedule_attention_dp_requests`, `balance_requests_across_ranks`. Tokens are those
// of the prompts as they came, whatever was generated since (`py_orig_prompt_len`).
void TensorRtLlmRanks::deal() {
  const std::int64_t busy = active(), ranks = static_cast<std::int64_t>(ranks_.size());
  std::int64_t most = waits_in_get_ ? 1 : static_cast<std::int64_t>(queue_.size());
  waits_in_get_ = false;
  most = std::min(most, most_active_ - busy);
  if (most <= 0) return;
  round_.assign(queue_.begin(), queue_.begin() + most);
  queue_.erase(queue_.begin(), queue_.begin() + most);
  std::stable_sort(round_.begin(), round_.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return places_[a].prompt > places_[b].prompt; });
  std::int64_t share = (busy + most + ranks - 1) / ranks;
  for (const Dealt& d : dealt_) share = std::max(share, d.requests);
  for (const std::uint32_t slot : round_) {
    std::size_t least = ranks_.size();
    const auto key = [&](std::size_t r) { return std::tuple(dealt_[r].tokens, dealt_[r].requests, r); };
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      if (dealt_[r].requests < share && (least == ranks_.size() || key(r) < key(least))) least = r;
    }
    ORRERY_CHECK(least < ranks_.size(), "an even share is enough for all");
    give(slot, least);
  }
}

void TensorRtLlmRanks::give(std::uint32_t slot, std::size_t rank) {
  Place& place = places_[slot];
  Dealt& dealt = dealt_[rank];
  place.rank = static_cast<std::uint32_t>(rank);
  place.local = schedulers_[rank]->add(place.request);
  place.request = {};
  if (place.local.value() >= dealt.global.size()) dealt.global.resize(place.local.value() + 1, nowhere);
  dealt.global[place.local.value()] = slot;
  ++dealt.requests;
  dealt.tokens += place.prompt;
}

void TensorRtLlmRanks::uncount(const Place& place) {
  if (place.rank == nowhere || place.held) return;
  --dealt_[place.rank].requests;
  dealt_[place.rank].tokens -= place.prompt;
}

void TensorRtLlmRanks::forget(std::uint32_t slot) {
  uncount(places_[slot]);
  places_[slot] = {};
  slots_.give_back(slot);
}

// Whoever reads a plan still asks for their ranks.
void TensorRtLlmRanks::forget_left() {
  for (const std::uint32_t slot : left_) forget(slot);
  left_.clear();
}

std::int32_t TensorRtLlmRanks::drop_departed(SequenceId sequence) {
  const auto slot = static_cast<std::uint32_t>(sequence.value());
  std::int32_t outputs = 0;
  if (places_[slot].rank != nowhere) {
    outputs = RankScheduler::drop_departed(sequence);
  } else {
    queue_.erase(std::find(queue_.begin(), queue_.end(), slot));
    const Request& request = places_[slot].request;
    if (request.leg == RequestLeg::decode)
      withdrawn_.push_back({.request = request.id, .sequence = SequenceId::none(), .blocks = 0});
  }
  if (outputs >= 0) forget(slot);
  return outputs;
}

std::int32_t TensorRtLlmRanks::outputs_of(SequenceId sequence) const {
  return places_[sequence.value()].rank == nowhere ? 0 : RankScheduler::outputs_of(sequence);
}

SchedulerView TensorRtLlmRanks::view() const {
  SchedulerView v = RankScheduler::view();
  v.waiting += static_cast<std::int32_t>(queue_.size());
  return v;
}

// ----------------------------------------------------------------------------------------------------- plan

const StepPlan& TensorRtLlmRanks::schedule() {
  forget_left();
  if (!waits_for_transfer_) deal();
  clear_plan();
  plan_.repeat = INT64_MAX;
  waits_for_transfer_ = std::any_of(schedulers_.begin(), schedulers_.end(),
                                    [](const auto* rank) { return rank->waits_for_transfer(); });
  if (waits_for_transfer_) return wait_for_transfers();
  const TensorRtLlmScheduler::Batch dummy{.contexts = 0, .generations = 1};
  Members busy;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    busy[r] = ranks_[r]->has_work();
    batches_[r] = busy[r] ? rank(r).compose() : dummy;
    if (rank(r).only_transfers()) batches_[r] = dummy;
  }
  const bool contexts = contexts_may_run();
  const bool runs = std::all_of(batches_.begin(), batches_.end(), [&](const auto& batch) {
    return (contexts ? batch.contexts : 0) + batch.generations > 0;
  });
  Members members;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    if (!busy[r])
      stand_by(r);
    else if (take_part(r, rank(r).launch(contexts, runs)))
      members.set(r);
  }
  // Who left in this pass, behind its dealing, has made room for one more.
  if (plan_.repeat == INT64_MAX || (!queue_.empty() && active() < most_active_)) plan_.repeat = 1;
  plan_.waiting += static_cast<std::int32_t>(queue_.size());
  close_plan(members);
  for (const HandedWork& work : plan_.handed) {
    if (work.ends) left_.push_back(static_cast<std::uint32_t>(work.sequence.value()));
  }
  for (const SequenceId id : plan_.aborted) left_.push_back(static_cast<std::uint32_t>(id.value()));
  return plan_;
}

const StepPlan& TensorRtLlmRanks::wait_for_transfers() {
  for (std::size_t r = 0; r < ranks_.size(); ++r) stand_by(r);
  plan_.repeat = 1;
  plan_.waiting += static_cast<std::int32_t>(queue_.size());
  close_plan({});
  return plan_;
}

// `_balance_adp_requests`.
bool TensorRtLlmRanks::contexts_may_run() {
  if (!rules_of_engine_.enable_balance) return true;
  const auto all = [&](auto holds) { return std::all_of(batches_.begin(), batches_.end(), holds); };
  using Batch = TensorRtLlmScheduler::Batch;
  const bool generations = all([](const Batch& b) { return b.generations > 0; });
  if (all([&](const Batch& b) { return b.generations < slots_of_rank_ && b.contexts > 0; })) {
    waited_ = 0;
    if (!generations) return true;
    const bool holds = batched_ < rules_of_engine_.batching_wait_iters;
    batched_ = holds ? batched_ + 1 : 0;
    return !holds;
  }
  ++waited_;
  if (generations && waited_ < rules_of_engine_.timeout_iters) return false;
  waited_ = 0;
  return true;
}

// -------------------------------------------------------------------------------------------------- outcome

const UpdateEffects& TensorRtLlmRanks::on_outcome(const StepOutcome& outcome) {
  // Passes of a stretch have generations, or a dummy, on every rank and no prompts.
  if (outcome.scheduled > 1 && rules_of_engine_.timeout_iters > 0)
    waited_ = (waited_ + outcome.scheduled - 1) % rules_of_engine_.timeout_iters;
  const UpdateEffects& effects = RankScheduler::on_outcome(outcome);
  for (const Finished& f : effects.finished) {
    const auto slot = static_cast<std::uint32_t>(f.sequence.value());
    if (!f.held) {
      forget(slot);
      continue;
    }
    uncount(places_[slot]);
    places_[slot].held = true;
  }
  return effects;
}

// ---------------------------------------------------------------------------------- prefill and decode apart

// Of one that its instance has lost with a life of its own: any.
std::size_t TensorRtLlmRanks::lane_of(SequenceId sequence) const {
  const std::size_t slot = sequence.value();
  return slot < places_.size() && places_[slot].rank != nowhere ? places_[slot].rank : 0;
}

std::span<const PullWork> TensorRtLlmRanks::take_pulls() {
  RankScheduler::take_pulls();
  pulls_.insert(pulls_.end(), withdrawn_.begin(), withdrawn_.end());
  withdrawn_.clear();
  return pulls_;
}

bool TensorRtLlmRanks::on_remote_end(SequenceId sequence, bool said_eos) {
  const bool goes_on = RankScheduler::on_remote_end(sequence, said_eos);
  release(sequence);
  return goes_on;
}

bool TensorRtLlmRanks::on_remote_failure(SequenceId sequence) {
  const bool goes_on = RankScheduler::on_remote_failure(sequence);
  release(sequence);
  return goes_on;
}

// Nobody names a held sequence again; its rank gives the blocks back when it notices.
void TensorRtLlmRanks::release(SequenceId sequence) {
  const auto slot = static_cast<std::uint32_t>(sequence.value());
  if (places_[slot].held) forget(slot);
}

}  // namespace orrery
