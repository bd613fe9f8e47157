// Attention data parallelism inside one instance: a scheduler over one scheduler of the engine for each rank,
// in lockstep (docs/parallel_plans.md). Sequence slot s of rank r is slot s·ranks + r of the instance, unless
// who deals requests out says otherwise (sim/schedulers/tensorrt_llm_ranks.h).
#pragma once

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "sim/scheduler.h"

namespace orrery {

// Chooses the rank for a request.
class RankBalancer {
 public:
  virtual ~RankBalancer() = default;
  virtual std::size_t choose(const Request& request) = 0;
  virtual void at(SimTime) {}  // what time it is, before any other call
  // Whether it wants to be told how many requests a rank has, whenever that may have changed.
  virtual bool watches_counts() const { return false; }
  virtual void report(std::size_t, const SchedulerView&) {}
  // Whether it wants to see every step: then none is offered as a stretch.
  virtual bool watches_steps() const { return false; }
  // The rank begins to process the result of a step, which held prompts of it (or nothing at all).
  virtual void processing(std::size_t, bool /* prompts */) {}
  virtual void idle() {}  // nobody has requests
};

struct RankRules {
  // vLLM: who has nothing to run beside others that do begins its next dummy batch as soon as the last one is
  // launched and waits in it for the others (`DPEngineCoreProc.run_busy_loop`), so that a request which comes
  // meanwhile misses a step. Not where the last one held prompts: launching that takes longer than the others
  // take to compose their next step.
  bool idle_ranks_are_bound = false;
};

// SGLang's default (`round_robin_scheduler`, data_parallel_controller.py): each rank in turn.
std::unique_ptr<RankBalancer> make_rank_round_robin(std::size_t ranks);

class RankScheduler : public Scheduler {
 public:
  static constexpr std::size_t most_ranks = 512;
  // 2 to `most_ranks` ranks, none of which speculates, encodes images or moves blocks over a host link.
  RankScheduler(std::vector<std::unique_ptr<Scheduler>> ranks, std::unique_ptr<RankBalancer> balancer,
                RankRules rules = {});

  void at(SimTime now) override { balancer_->at(now); }
  SequenceId add(const Request& request) override;
  const StepPlan& schedule() override;
  const std::vector<Admission>& admissions() const override { return admissions_; }
  const UpdateEffects& on_outcome(const StepOutcome& outcome) override;
  std::int32_t drop_departed(SequenceId sequence) override;
  std::int32_t outputs_of(SequenceId sequence) const override;
  bool may_overtake() const override;
  void on_idle() override;
  bool has_work() const override;
  StepId next_step() const override { return StepId(static_cast<std::uint64_t>(next_step_)); }
  std::int32_t open_steps() const override { return static_cast<std::int32_t>(open_.size()); }
  std::int32_t lanes() const override { return static_cast<std::int32_t>(ranks_.size()); }
  SchedulerView view() const override;
  const SchedulerCounters& counters() const override;
  KvUsage kv_usage() const override;
  // A rank that sits steps out, or has an empty queue, may take a newcomer in whatever the others offer.
  bool newcomer_may_run() const override { return ranks_[last_chosen_]->newcomer_may_run(); }
  // Prefill and decode apart: every rank holds, and fetches or is sent, for itself.
  std::span<const PullWork> take_pulls() override;
  std::span<const SendWork> take_sends() override;
  bool on_room(SequenceId sequence) override;
  bool on_remote_end(SequenceId sequence, bool said_eos) override;
  bool on_remote_failure(SequenceId sequence) override;
  bool awaits_transfer() const override;
  bool looks_again() const override;
  std::uint64_t digest() const override;

 protected:
  using Members = std::bitset<most_ranks>;  // the ranks that run in a step

  virtual SequenceId global(SequenceId local, std::size_t rank) const {
    return SequenceId(static_cast<std::uint32_t>(local.value() * ranks_.size() + rank));
  }
  virtual std::size_t rank_of(SequenceId sequence) const { return sequence.value() % ranks_.size(); }
  virtual SequenceId local(SequenceId sequence) const {
    return SequenceId(static_cast<std::uint32_t>(sequence.value() / ranks_.size()));
  }
  void clear_plan();
  bool take_part(std::size_t rank, const StepPlan& plan);
  void stand_by(std::size_t rank);
  void report();
  void join(const StepPlan& plan, std::size_t rank);
  void close_plan(Members members);
  void watch();
  void update_rank(const StepOutcome& outcome, std::size_t rank);
  void sit_out(std::size_t updates);
  // Nothing is in flight but passes of nobody.
  bool nothing_runs() const {
    return std::all_of(open_.begin(), open_.end(), [](const Members& open) { return open.none(); });
  }
  void run_nobody();

  std::vector<std::unique_ptr<Scheduler>> ranks_;
  std::unique_ptr<RankBalancer> balancer_;
  RankRules rules_;
  Members bound_;  // ranks that sit the next step out, whatever comes
  bool was_idle_ = false;
  std::size_t last_chosen_ = 0;
  std::int64_t next_step_ = 0;
  std::uint64_t empty_passes_ = 0;
  std::deque<Members> open_;           // steps in flight, oldest first
  std::deque<Members> prompts_;        // who has prompts in them; only for a balancer that watches
  std::vector<std::int64_t> updated_;  // by rank: its own steps whose outcome is known
  StepPlan plan_;
  std::vector<RankPlan> rank_plans_;
  std::vector<PrefillWork> prefill_, joined_;
  std::vector<HandedWork> handed_;
  std::vector<SequenceId> preempted_, preempted_for_, paused_, aborted_, turned_away_;
  std::vector<Admission> admissions_;
  std::vector<PullWork> pulls_;
  std::vector<SendWork> sends_;
  std::vector<SequenceId> eos_;
  UpdateEffects effects_;
  mutable SchedulerCounters counters_;
};

}  // namespace orrery
