// One engine: a scheduler, the progress of its requests, and when its core thread may schedule.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/digest.h"
#include "sim/collector.h"
#include "sim/encoder_relay.h"
#include "sim/executor.h"
#include "sim/front_end.h"
#include "sim/handoffs.h"
#include "sim/inbox.h"
#include "sim/pool_role.h"
#include "sim/request_ledger.h"
#include "sim/router.h"
#include "sim/scheduler.h"
#include "sim/stream_events.h"

namespace orrery {

class Instance {
 public:
  struct Wiring {
    InstanceId id;
    Executor* executor = nullptr;
    Inbox* inbox = nullptr;
    RunCollector* collector = nullptr;
    RunObserver* observer = nullptr;  // may be null
    FrontEnd* front_end = nullptr;    // null: the client sits beside the engine
    bool client_prepares = false;     // in whose process images are prepared (Inbox::client_reads)
    SimDuration abort_delay;          // from a client that gives up to the core
    StreamRule stream;
    bool per_request_itl = false;
    PoolRole role = PoolRole::mixed;
    std::uint32_t life = 0;           // how often the instance was begun again
    Handoffs* handoffs = nullptr;     // null: nobody hands anything over
    RequestLedger* ledger = nullptr;  // null: no instance is ever lost
    AnswerEvents* answers = nullptr;  // null: the router does not listen
    EncoderRelay* relay = nullptr;    // of an encoder instance
  };
  Instance(std::unique_ptr<Scheduler> scheduler, const Wiring& wiring);

  // None when the engine refuses the request (it has been recorded as rejected).
  SequenceId add(const Request& request, SimTime now);
  // The client gave up before the request reached the core: recorded, and nothing else.
  void turn_away(const Request& request);
  bool holds(SequenceId sequence, RequestId request) const {
    return sequence.value() < progress_.size() && progress_[sequence.value()].request == request &&
           !progress_[sequence.value()].lost;
  }
  // The core learns that the client of a live request is gone. The next pass of its thread drops it.
  void client_left(SequenceId sequence, SimTime now);
  // Where it has `request`; none: it does not, or knows already when its client gives up. Looks at all of
  // them.
  SequenceId find_staying(RequestId request) const;
  // Its client has just gone, of which the core learns later.
  void set_gives_up(SequenceId sequence, SimTime now);
  // Its prefill leg is of no use to anybody: as if its client had left, of which nobody is told. True when an
  // idle instance may go on.
  bool abandon(SequenceId sequence, SimTime now);
  void on_outcome(const StepOutcome& outcome);
  // Its process is gone. Returns, by request, who goes on elsewhere or is failed; clients that had left get
  // their last word. Nothing else may be asked of it then but what it counted.
  std::vector<LostRequest> lose_all(SimTime now);
  // Whom it holds, by slot.
  struct Live {
    SequenceId sequence;
    RequestId request;
  };
  std::vector<Live> live() const;
  // The blocks that a sequence waits for will not come: its scheduler drops it when it can, and nobody is
  // told what it says until then. Nullopt: its client has left, and it ends as such a one does.
  std::optional<LostRequest> withdraw(SequenceId sequence, SimTime now);
  // A transfer has ended; true when an idle instance may go on.
  bool on_transfer(std::uint64_t transfer, SimTime now);
  // Of attention data parallelism: whose sequence it is.
  std::int32_t rank_of(SequenceId sequence) const {
    return lanes_.size() == 1 ? 0 : static_cast<std::int32_t>(scheduler_->lane_of(sequence));
  }
  // Prefill and decode apart: what the last pass of its scheduler wants fetched; and a fetch for `sequence`,
  // or of its held blocks, has ended (`at`: for the digest). True when an idle instance may go on.
  std::span<const PullWork> take_pulls() {
    return muted_.empty() ? scheduler_->take_pulls() : take_unmuted_pulls();
  }
  std::span<const SendWork> take_sends() { return scheduler_->take_sends(); }
  bool on_remote_end(SequenceId sequence, RequestId request, bool said_eos, SimTime now);
  bool on_remote_failure(SequenceId sequence, RequestId request, SimTime now);
  bool on_room(SequenceId sequence) { return scheduler_->on_room(sequence) && idle_; }
  void observe_pull(const PullWork& pull, SimTime now);
  void observe_pull_end(RequestId request, bool failed, SimTime now);
  // A request has ended here; the client hears of it unless another leg speaks for it.
  void tell_inbox(RequestId request, SimTime at) {
    if (!silent()) wiring_.inbox->on_finished(request, at);
  }
  // The core thread is free at `now`: compose and submit a step, if there is one. False when work waits that
  // can never run (capacity exhausted).
  bool schedule(SimTime now);
  bool idle() const { return idle_; }
  PoolRole role() const { return wiring_.role; }
  std::int32_t outstanding() const { return outstanding_; }
  const Scheduler& scheduler() const { return *scheduler_; }
  std::uint64_t digest() const;
  std::uint64_t stretches() const { return stretches_; }
  RequestId oldest_waiting() const;

 private:
  struct Segment {
    std::int64_t first = 0, last = 0;
  };  // steps whose gaps belong to a request
  struct Progress {
    RequestId request;
    SimTime arrival, first_scheduled, first_token;
    SimTime last_token;  // known only across a preemption or a pause
    std::int32_t prompt = 0, cached = 0, preemptions = 0;
    std::int64_t batch = 0;  // sequences of the step with its latest prompt chunk
    bool admitted = false, has_token = false;
    SimTime gives_up = SimTime::never();
    bool times_out = false, left = false;  // left: the engine knows that its client is gone
    bool lost = false;                     // withdrawn: its request goes on elsewhere
    std::int64_t computed = 0;             // end of its latest prompt chunk
    std::uint32_t lane = 0;
    bool rejoined = false;          // its present run began with a token that was not its first
    bool broken = false;            // preempted or paused: its next gap spans more than one update
    std::int64_t run_first = 0;     // step of the token that began the current run of gaps
    std::int64_t run_last = 0;      // step of its last token before it was broken
    std::int64_t left_out = -1;     // step before the one that last left it out
    std::vector<Segment> segments;  // closed runs (per-request ITL only)
    std::vector<std::int64_t> extra_gaps;
    std::vector<SimTime> apart;  // its latest tokens, where each has a gap of its own and clients may leave
  };

  // What one rank's decode set has seen; one without attention data parallelism.
  struct Lane {
    SimTime last_update = SimTime::never();  // that was not stalled, and its step
    std::int64_t last_update_step = -1;
    // Gaps between consecutive updates by step, for per-request ITL; −1 = the step stalled the decodes.
    std::vector<std::int64_t> gaps;
  };

  void record_plan(const StepPlan& plan, StepId step, SimTime now);
  void break_run(SequenceId sequence, std::int64_t step, bool in_flight);
  void drop_token(SequenceId sequence);
  void stand_apart(Progress& p, SimTime at, std::int64_t step);
  void fail_request(SequenceId sequence, SimTime now, RequestStatus status);
  void drop_departed();
  RequestRecord begin_record(const Progress& p) const;
  void end_unanswered(SequenceId sequence, std::int32_t outputs);
  std::int32_t delivered_by(SequenceId sequence, SimTime at, std::int32_t outputs) const;
  void note_apart(Progress& p, SimTime at);
  void tell_clients(const StepOutcome& outcome, const UpdateEffects& effects);
  void wait_for_preparation(const StepOutcome& outcome);
  void note_deliveries(const StepOutcome& outcome, const UpdateEffects& effects);
  void take_first_token(const FirstToken& token, const StepOutcome& outcome);
  void join_run(Progress& p, SimTime at, std::int64_t step);
  void observe_steps(const StepOutcome& outcome);
  void finish(const Finished& finished, const StepOutcome& outcome);
  void fill_itl(SequenceId sequence, std::int64_t last_step, RequestRecord& record);
  LostRequest lost_of(SequenceId sequence, SimTime now);
  void forget(SequenceId sequence);
  std::span<const PullWork> take_unmuted_pulls();
  void hand_over(const Finished& finished, SimTime at);
  void relay(const Finished& f, SimTime at);
  void add_handoff(const Progress& p, RequestRecord& record) const;
  void deliver(const RequestRecord& record, SimTime at);
  bool try_again(SequenceId sequence);
  // A prefill leg beside a decode leg that speaks for both.
  bool silent() const {
    return wiring_.role == PoolRole::prefill && wiring_.handoffs != nullptr &&
           wiring_.handoffs->rules.at_once;
  }
  void note_admission(const Progress& p);
  void take_handed(const StepPlan& plan, StepId step, SimTime now);
  void end_handed(SequenceId sequence, SimTime at);
  // Of a decode leg; null where the request was never split.
  const Handoff* handoff_of(const Progress& p) const {
    return wiring_.role == PoolRole::decode ? wiring_.handoffs->find(p.request) : nullptr;
  }
  void trim_gap_log();
  void levels_changed();
  void observe_request(RequestEvent::Kind kind, RequestId request, SimTime at, std::uint64_t step,
                       std::int64_t tokens, std::int64_t context);
  bool holds_tokens() const { return streams_.has_value(); }  // stream_interval above 1
  Lane& lane_of(const Progress& p) { return lanes_[p.lane]; }
  double note_updates(const StepOutcome& outcome, const UpdateEffects& effects, std::size_t lane);
  Progress& progress_of(SequenceId sequence) { return progress_[sequence.value()]; }

  std::unique_ptr<Scheduler> scheduler_;
  Wiring wiring_;
  std::optional<StreamEvents> streams_;  // who has events when; none: an event a token
  SimDuration output_delay_, output_per_sequence_;
  std::vector<Progress> progress_;          // by sequence slot
  std::vector<SequenceId> awaiting_token_;  // preempted or paused with a token in flight
  bool idle_ = true;
  std::int32_t outstanding_ = 0;
  std::vector<Lane> lanes_;
  bool tells_time_;
  std::uint64_t stretches_ = 0;
  Digest times_;                     // when every step's update ended
  Digest remote_;                    // apart: ends of fetches, which a stretch does not report in order
  std::vector<RequestId> rejected_;  // apart: a stretch reports its updates after what arrived inside it
  std::int64_t gaps_base_ = 0;       // step of every lane's first gap
  std::size_t trim_at_ = 1u << 16;
  SchedulerView levels_;
  // When clients have the tokens of each update of the present outcome, but for output_delay_.
  std::span<const SimTime> told_;
  std::vector<SimTime> told_late_;        // with a front end
  std::vector<std::int64_t> outputs_of_;  // by update
  std::vector<SequenceId> departed_;      // their clients are gone; the scheduler still holds them
  struct Delivery {
    SimTime at;
    std::int64_t step;
    std::uint32_t lane;
  };
  std::vector<RequestId> muted_;  // withdrawn ones, whose word to the prefill instance is not wanted
  std::vector<PullWork> unmuted_;
  std::deque<Delivery> deliveries_;  // of late; only once a client may give up
  bool clients_may_leave_ = false;
  std::vector<StepRecord> records_;  // open steps, oldest first (observer only)
};

}  // namespace orrery
