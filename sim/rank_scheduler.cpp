#include "sim/rank_scheduler.h"

#include <algorithm>

#include "base/digest.h"

namespace orrery {

namespace {

class RankRoundRobin final : public RankBalancer {
 public:
  explicit RankRoundRobin(std::size_t ranks) : ranks_(ranks) {}
  std::size_t choose(const Request&) override {
    const std::size_t chosen = next_;
    next_ = (next_ + 1) % ranks_;
    return chosen;
  }

 private:
  std::size_t ranks_, next_ = 0;
};

}  // namespace

std::unique_ptr<RankBalancer> make_rank_round_robin(std::size_t ranks) {
  return std::make_unique<RankRoundRobin>(ranks);
}

RankScheduler::RankScheduler(std::vector<std::unique_ptr<Scheduler>> ranks,
                             std::unique_ptr<RankBalancer> balancer, RankRules rules)
    : ranks_(std::move(ranks)), balancer_(std::move(balancer)), rules_(rules), updated_(ranks_.size(), 0) {
  ORRERY_CHECK(ranks_.size() >= 2 && ranks_.size() <= most_ranks, "ranks of attention data parallelism");
}

// ---------------------------------------------------------------------------------------------------- queue

SequenceId RankScheduler::add(const Request& request) {
  last_chosen_ = balancer_->choose(request);
  const SequenceId own = ranks_[last_chosen_]->add(request);
  if (balancer_->watches_counts()) balancer_->report(last_chosen_, ranks_[last_chosen_]->view());
  return own.is_none() ? own : global(own, last_chosen_);
}

std::int32_t RankScheduler::drop_departed(SequenceId sequence) {
  return ranks_[rank_of(sequence)]->drop_departed(local(sequence));
}

std::int32_t RankScheduler::outputs_of(SequenceId sequence) const {
  return ranks_[rank_of(sequence)]->outputs_of(local(sequence));
}

bool RankScheduler::may_overtake() const { return ranks_[last_chosen_]->may_overtake(); }

// A rank without requests beside ranks that have some runs idle batches and never finds the engine idle.
void RankScheduler::on_idle() {
  for (const auto& rank : ranks_) rank->on_idle();
  balancer_->idle();
  bound_.reset();
  was_idle_ = true;
}

void RankScheduler::report() {
  if (!balancer_->watches_counts()) return;
  for (std::size_t r = 0; r < ranks_.size(); ++r) balancer_->report(r, ranks_[r]->view());
}

bool RankScheduler::has_work() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->has_work(); });
}

// ----------------------------------------------------------------------------------------------------- plan

void RankScheduler::clear_plan() {
  plan_ = StepPlan{};
  rank_plans_.assign(ranks_.size(), {});
  prefill_.clear();
  joined_.clear();
  handed_.clear();
  preempted_.clear();
  preempted_for_.clear();
  paused_.clear();
  aborted_.clear();
  turned_away_.clear();
  admissions_.clear();
}

const StepPlan& RankScheduler::schedule() {
  clear_plan();
  Members members, idle, late;
  plan_.repeat = INT64_MAX;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    if (!ranks_[r]->has_work()) {
      idle.set(r);
      stand_by(r);
    } else if (bound_[r]) {
      late.set(r);
    } else if (take_part(r, ranks_[r]->schedule())) {
      members.set(r);
    }
  }
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    if (!late[r]) continue;
    if (members.any()) {
      plan_.repeat = 1;
      stand_by(r);
    } else if (take_part(r, ranks_[r]->schedule())) {  // nobody is left to wait for
      members.set(r);
    }
  }
  if (plan_.repeat == INT64_MAX) plan_.repeat = 1;
  bound_ = rules_.idle_ranks_are_bound && members.any() && prefill_.empty() ? idle : Members{};
  plan_.after_idle = was_idle_;
  if (members.any()) was_idle_ = false;
  close_plan(members);
  report();
  return plan_;
}

// Returns whether something of the rank runs.
bool RankScheduler::take_part(std::size_t rank, const StepPlan& plan) {
  join(plan, rank);
  plan_.free_blocks += plan.free_blocks;
  for (const Admission& a : ranks_[rank]->admissions()) {
    admissions_.push_back(a);
    admissions_.back().sequence = global(a.sequence, rank);
  }
  // Whoever waits while nothing of its rank can run may be let in by any outcome.
  plan_.repeat = std::min(plan_.repeat, plan.tokens() > 0 ? plan.repeat : 1);
  return plan.tokens() > 0;
}

void RankScheduler::stand_by(std::size_t rank) {
  join(StepPlan{}, rank);
  const SchedulerView v = ranks_[rank]->view();
  plan_.free_blocks += v.free_blocks;
  plan_.waiting += v.waiting;
}

void RankScheduler::join(const StepPlan& plan, std::size_t rank) {
  ORRERY_CHECK(
      plan.verify.empty() && plan.encode.empty() && plan.load_blocks == 0 && plan.blocking_store_blocks == 0,
      "ranks neither speculate, encode nor move blocks beside a step");
  const std::size_t first = prefill_.size(), first_joined = joined_.size();
  for (const PrefillWork& w : plan.prefill) {
    prefill_.push_back(w);
    prefill_.back().sequence = global(w.sequence, rank);
  }
  rank_plans_[rank] = {.first_prefill = first,
                       .prefills = plan.prefill.size(),
                       .first_joined = first_joined,
                       .joins = plan.joined.size(),
                       .decode_sequences = plan.decode_sequences,
                       .decode_context_tokens = plan.decode_context_tokens,
                       .new_requests = plan.new_requests,
                       .running = plan.running,
                       .runs = plan.tokens() > 0,
                       .stalls_decodes = plan.stalls_decodes,
                       .decoding = plan.decoding};
  const auto take = [&](std::span<const SequenceId> from, std::vector<SequenceId>& into) {
    for (const SequenceId id : from) into.push_back(global(id, rank));
  };
  take(plan.preempted, preempted_);
  take(plan.preempted_for, preempted_for_);
  take(plan.paused, paused_);
  take(plan.aborted.first(plan.turned_away), turned_away_);
  take(plan.aborted.subspan(plan.turned_away), aborted_);
  for (HandedWork work : plan.handed) {
    work.sequence = global(work.sequence, rank);
    handed_.push_back(work);
  }
  for (PrefillWork work : plan.joined) {
    work.sequence = global(work.sequence, rank);
    joined_.push_back(work);
  }
  // Each over a link of its own; the step waits for the last.
  plan_.onboarded_blocks = std::max(plan_.onboarded_blocks, plan.onboarded_blocks);
  plan_.offloaded_blocks = std::max(plan_.offloaded_blocks, plan.offloaded_blocks);
  plan_.decode_sequences += plan.decode_sequences;
  plan_.decode_context_tokens += plan.decode_context_tokens;
  plan_.decode_irregular += plan.decode_irregular;
  plan_.new_requests += plan.new_requests;
  plan_.running += plan.running;
  plan_.waiting += plan.waiting;
  plan_.prefill_tokens += plan.prefill_tokens;
  plan_.preemption_drops_token |= plan.preemption_drops_token;
}

void RankScheduler::close_plan(Members members) {
  plan_.turned_away = turned_away_.size();
  aborted_.insert(aborted_.begin(), turned_away_.begin(), turned_away_.end());
  plan_.prefill = prefill_;
  plan_.handed = handed_;
  plan_.joined = joined_;
  plan_.preempted = preempted_;
  plan_.preempted_for = preempted_for_;
  plan_.paused = paused_;
  plan_.aborted = aborted_;
  plan_.ranks = rank_plans_;
  if (members.none()) return;
  const bool same =
      std::all_of(open_.begin(), open_.end(), [&](const Members& open) { return open == members; });
  if (!same) plan_.repeat = 1;
  open_.push_back(members);
  ++next_step_;
  if (!balancer_->watches_steps()) return;
  plan_.repeat = 1;
  Members prompts;
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    if (rank_plans_[r].prefills > 0) prompts.set(r);
  }
  prompts_.push_back(prompts);
}

// A pass that takes the ranks' time all the same (StepPlan::empty_batch).
void RankScheduler::run_nobody() {
  plan_.empty_batch = true;
  plan_.repeat = 1;
  open_.push_back({});
  ++next_step_;
  ++empty_passes_;
  if (balancer_->watches_steps()) prompts_.push_back({});
}

void RankScheduler::watch() {
  for (std::size_t r = 0; r < ranks_.size(); ++r) balancer_->processing(r, prompts_.front()[r]);
  prompts_.pop_front();
}

// -------------------------------------------------------------------------------------------------- outcome

const UpdateEffects& RankScheduler::on_outcome(const StepOutcome& outcome) {
  effects_.clear();
  ORRERY_CHECK(!open_.empty(), "an outcome belongs to an open step");
  if (balancer_->watches_steps()) watch();
  for (std::int64_t i = 1; i < outcome.scheduled; ++i) open_.push_back(open_.back());
  next_step_ += outcome.scheduled - 1;
  const std::size_t updates = outcome.updates.size();
  const Members members = open_.front();
  for (std::size_t i = 0; i < updates; ++i) {
    ORRERY_CHECK(open_.front() == members, "steps reported together ran on the same ranks");
    open_.pop_front();
  }
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    if (members[r])
      update_rank(outcome, r);
    else
      sit_out(updates);
  }
  report();
  return effects_;
}

void RankScheduler::sit_out(std::size_t updates) {
  effects_.regular_decodes.insert(effects_.regular_decodes.end(), updates, 0);
  effects_.stalled.insert(effects_.stalled.end(), updates, true);
}

void RankScheduler::update_rank(const StepOutcome& outcome, std::size_t rank) {
  const std::size_t updates = outcome.updates.size();
  StepOutcome own = outcome;
  own.first = StepId(static_cast<std::uint64_t>(updated_[rank]));
  updated_[rank] += static_cast<std::int64_t>(updates);
  eos_.clear();
  for (const SequenceId id : outcome.eos) {
    if (rank_of(id) == rank) eos_.push_back(local(id));
  }
  own.eos = eos_;
  const UpdateEffects& effects = ranks_[rank]->on_outcome(own);
  for (FirstToken token : effects.first_tokens) {
    token.sequence = global(token.sequence, rank);
    effects_.first_tokens.push_back(token);
  }
  for (Finished end : effects.finished) {
    end.sequence = global(end.sequence, rank);
    effects_.finished.push_back(end);
  }
  for (Irregular token : effects.irregular) {
    token.sequence = global(token.sequence, rank);
    effects_.irregular.push_back(token);
  }
  effects_.regular_decodes.insert(effects_.regular_decodes.end(), effects.regular_decodes.begin(),
                                  effects.regular_decodes.end());
  for (std::size_t i = 0; i < updates; ++i) effects_.stalled.push_back(effects.was_stalled(i));
}

// ---------------------------------------------------------------------------------- prefill and decode apart

std::span<const PullWork> RankScheduler::take_pulls() {
  pulls_.clear();
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    for (PullWork work : ranks_[r]->take_pulls()) {
      if (!work.sequence.is_none()) work.sequence = global(work.sequence, r);
      pulls_.push_back(work);
    }
  }
  return pulls_;
}

std::span<const SendWork> RankScheduler::take_sends() {
  sends_.clear();
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    for (SendWork work : ranks_[r]->take_sends()) {
      work.sequence = global(work.sequence, r);
      sends_.push_back(work);
    }
  }
  return sends_;
}

bool RankScheduler::on_room(SequenceId sequence) {
  return ranks_[rank_of(sequence)]->on_room(local(sequence));
}

bool RankScheduler::on_remote_end(SequenceId sequence, bool said_eos) {
  return ranks_[rank_of(sequence)]->on_remote_end(local(sequence), said_eos);
}

bool RankScheduler::on_remote_failure(SequenceId sequence) {
  return ranks_[rank_of(sequence)]->on_remote_failure(local(sequence));
}

bool RankScheduler::awaits_transfer() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->awaits_transfer(); });
}

bool RankScheduler::looks_again() const {
  return std::any_of(ranks_.begin(), ranks_.end(), [](const auto& rank) { return rank->looks_again(); });
}

// ------------------------------------------------------------------------------------------------- accounts

SchedulerView RankScheduler::view() const {
  SchedulerView sum;
  for (const auto& rank : ranks_) {
    const SchedulerView v = rank->view();
    sum.running += v.running;
    sum.waiting += v.waiting;
    sum.free_blocks += v.free_blocks;
    sum.usable_blocks += v.usable_blocks;
  }
  return sum;
}

// min_free_blocks: of the fullest rank, for that many times the ranks, so that a share of all blocks means
// it.
const SchedulerCounters& RankScheduler::counters() const {
  counters_ = SchedulerCounters{};
  std::int64_t least = INT64_MAX;
  for (const auto& rank : ranks_) {
    const SchedulerCounters& c = rank->counters();
    counters_.preemptions += c.preemptions;
    counters_.queried_tokens += c.queried_tokens;
    counters_.hit_tokens += c.hit_tokens;
    least = std::min(least, c.min_free_blocks);
  }
  counters_.min_free_blocks = least * static_cast<std::int64_t>(ranks_.size());
  counters_.empty_batches = empty_passes_;
  return counters_;
}

// What the engine logs is one rank's.
KvUsage RankScheduler::kv_usage() const {
  KvUsage sum;
  for (const auto& rank : ranks_) {
    const KvUsage own = rank->kv_usage();
    sum.total_blocks = own.total_blocks;
    sum.usable_blocks += own.usable_blocks;
    sum.allocated += own.allocated;
  }
  return sum;
}

std::uint64_t RankScheduler::digest() const {
  Digest d;
  for (const auto& rank : ranks_) d.add(rank->digest());
  return d.value();
}

}  // namespace orrery
