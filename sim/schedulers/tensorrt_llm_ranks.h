// TensorRT-LLM 1.2's attention data parallelism (`enable_attention_dp`): every rank has a scheduler and a KV
// cache, one waiting queue stands before them, and in each pass they agree on what runs.
//
// Rules (pyexecutor/py_executor.py and request_utils.py; ../shared/reference/tensorrt_llm_1_2.md §6):
//  - `schedule_attention_dp_requests`: a pass deals out what has come since the last one, longest prompt
//  first,
//    each to the rank with least prompt tokens, up to an even share of requests. So a request has a rank from
//    its first pass on, not from its arrival.
//  - `_pad_attention_dp_dummy_request`: a rank without requests beside others with some runs one dummy row.
//  - `_can_queue`: nobody runs in a pass in which a rank that has requests can run none of them: so when all
//  that
//    a rank has is waiting for its last token, everybody waits for that.
//  - `_balance_adp_requests` (`attention_dp_config.enable_balance`): prompts wait until every rank has one.
//
// Prefill and decode apart (the same file; every rank has a transceiver of its own):
//  - Both legs are dealt out like other requests. Who waits for blocks or a transfer counts there, and not
//    for a dummy: a rank with nobody else runs one (`_pad_attention_dp_dummy_request`).
//  - `_check_disagg_gen_transfer_status`: a rank whose requests are all in transfer waits at the head of the
//    pass until one is there, and at the next word between ranks everybody waits for it.
//  - A context server's request stops counting for its rank when it is answered; its blocks stay with the
//    rank.
#pragma once

#include "sim/rank_scheduler.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "sim/slot_pool.h"

namespace orrery {

class TensorRtLlmRanks final : public RankScheduler {
 public:
  TensorRtLlmRanks(const SchedulerConfig& config, std::int32_t ranks);

  SequenceId add(const Request& request) override;
  const StepPlan& schedule() override;
  const UpdateEffects& on_outcome(const StepOutcome& outcome) override;
  std::int32_t drop_departed(SequenceId sequence) override;
  std::int32_t outputs_of(SequenceId sequence) const override;
  bool has_work() const override { return !queue_.empty() || RankScheduler::has_work(); }
  bool may_overtake() const override { return false; }
  bool newcomer_may_run() const override { return true; }  // whoever waits, waits at a rank
  std::size_t lane_of(SequenceId sequence) const override;
  std::span<const PullWork> take_pulls() override;
  bool on_remote_end(SequenceId sequence, bool said_eos) override;
  bool on_remote_failure(SequenceId sequence) override;
  SchedulerView view() const override;

 protected:
  SequenceId global(SequenceId local, std::size_t rank) const override {
    return SequenceId(dealt_[rank].global[local.value()]);
  }
  std::size_t rank_of(SequenceId sequence) const override { return places_[sequence.value()].rank; }
  SequenceId local(SequenceId sequence) const override { return places_[sequence.value()].local; }

 private:
  static constexpr std::uint32_t nowhere = static_cast<std::uint32_t>(-1);
  struct Place {                   // of a sequence of the instance
    std::uint32_t rank = nowhere;  // in the queue
    SequenceId local;
    Request request;  // until it is dealt out
    std::int32_t prompt = 0;
    bool held = false;  // prefill leg, answered: counts for nobody
  };
  struct Dealt {                        // to a rank
    std::vector<std::uint32_t> global;  // by the rank's own slot
    std::int64_t requests = 0, tokens = 0;
  };

  TensorRtLlmScheduler& rank(std::size_t r) { return *schedulers_[r]; }
  std::int64_t active() const;
  void deal();
  void give(std::uint32_t slot, std::size_t rank);
  void uncount(const Place& place);
  void forget(std::uint32_t slot);
  void forget_left();
  void release(SequenceId sequence);
  bool contexts_may_run();
  const StepPlan& wait_for_transfers();

  TensorRtLlmRules rules_of_engine_;
  bool fetches_all_;          // §1.4: batch_wait_timeout_ms
  std::int64_t most_active_;  // of all ranks
  std::int64_t slots_of_rank_;
  std::vector<TensorRtLlmScheduler*> schedulers_;
  std::vector<Place> places_;
  SlotPool slots_;
  std::vector<Dealt> dealt_;
  std::deque<std::uint32_t> queue_;
  bool waits_in_get_ = false;  // §1.4: idle when the first of `queue_` came
  std::vector<TensorRtLlmScheduler::Batch> batches_;
  std::int64_t waited_ = 0, batched_ = 0;  // adp_ctx_waiting_iters_count, adp_ctx_batching_wait_iters_count
  std::vector<std::uint32_t> round_;
  bool waits_for_transfer_ = false;  // the pass under way, behind its dealing
  std::vector<std::uint32_t> left_;  // that the last plan was the last word of
  std::vector<PullWork> withdrawn_;  // decode legs whose clients left the queue
};

}  // namespace orrery
