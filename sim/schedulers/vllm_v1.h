// vLLM V1's scheduler, version 0.24 (rules: ../shared/reference/vllm_0_24.md §1, §2; cited as §… below).
//
// The rules are the engine's; the bookkeeping is not. The engine walks every running request in every step.
// Here the decoding ones are a DecodeSet of sums, ends stand in a heap by step, and a step in which nothing
// is short costs O(changes). When the token budget or the KV pool is short, the running list is walked in
// order, as the engine does.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "base/digest.h"
#include "sim/decode_ends.h"
#include "sim/decode_set.h"
#include "sim/kv_block_manager.h"
#include "sim/open_steps.h"
#include "sim/scheduler.h"
#include "sim/schedulers/vllm_encoder.h"
#include "sim/schedulers/vllm_offload.h"
#include "sim/slot_pool.h"
#include "sim/window_slides.h"

namespace orrery {

class VllmV1Scheduler final : public Scheduler, private DecodingTokens {
 public:
  explicit VllmV1Scheduler(const SchedulerConfig& config);
  VllmV1Scheduler(const VllmV1Scheduler&) = delete;

  SequenceId add(const Request& request) override;
  const StepPlan& schedule() override;
  const std::vector<Admission>& admissions() const override { return admissions_; }
  const UpdateEffects& on_outcome(const StepOutcome& outcome) override;
  std::int32_t drop_departed(SequenceId sequence) override;
  std::int32_t outputs_of(SequenceId sequence) const override {
    const Sequence& s = sequences_[sequence.value()];
    return walks() ? s.outputs : known_outputs(s);
  }
  bool may_overtake() const override { return config_.by_priority; }
  bool has_work() const override {
    return running_count_ > 0 || !waiting_.empty() || !skipped_.empty() || remote_.held > 0;
  }
  void append_decoding(std::vector<DecodingToken>& tokens) const override;  // decoding_tokens.cpp
  StepId next_step() const override { return StepId(static_cast<std::uint64_t>(next_step_)); }
  std::int32_t open_steps() const override { return static_cast<std::int32_t>(next_step_ - updated_steps_); }
  SchedulerView view() const override;
  const SchedulerCounters& counters() const override { return counters_; }
  KvUsage kv_usage() const override {
    return {.total_blocks = kv_.usable_blocks() + 1,
            .usable_blocks = kv_.usable_blocks(),
            .allocated = kv_.allocated_in_total()};
  }
  EncoderCounters encoder_counters() const override {
    return encoder_ == nullptr ? EncoderCounters{} : encoder_->counters();
  }
  OffloadCounters offload_counters() const override {
    return offload_ == nullptr ? OffloadCounters{} : offload_->counters();
  }
  std::span<const TransferWork> take_transfers() override;
  std::span<const HostLoad> host_loads() const override { return host_loads_; }
  bool on_transfer(std::uint64_t transfer) override;
  bool awaits_transfer() const override {
    return (offload_ != nullptr && offload_->busy()) || remote_.held + remote_.pulling > 0;
  }
  std::span<const PullWork> take_pulls() override;
  std::span<const SendWork> take_sends() override;
  bool on_remote_end(SequenceId sequence, bool said_eos) override;
  bool on_remote_failure(SequenceId sequence) override;
  bool looks_again() const override {  // also where the last one that ran had to go: others may have room now
    return running_count_ == 0 && (!remote_.ended.empty() || (offload_ != nullptr && !preempted_.empty()));
  }
  // Data parallelism: whether this step is none that prompts are scheduled in (sim/vllm_ranks.h).
  void throttle_prefills(bool throttled) { throttled_ = throttled; }
  bool newcomer_may_run() const override {
    return skipped_.empty() ? waiting_.size() == 1 : !waiting_.empty();
  }
  std::uint64_t digest() const override;
  bool watch_cache(CacheEvents* events) override {
    kv_.watch(events);
    return true;
  }

 private:
  using Slot = std::uint32_t;
  static constexpr Slot no_slot = static_cast<Slot>(-1);

  enum class State : std::uint8_t {
    waiting,     // queued, holds nothing (fresh or preempted)
    loading,     // set aside in the queue, holds blocks that come from host memory or another instance
    prefilling,  // running, part of its tokens computed
    decoding,    // running, in the decode set
    paused,      // running, decoding, passed over in the last step
    last_token,  // running, its last token is in flight: not scheduled, holds its blocks (§1.5 finish lag)
    held,        // a prefill leg that was answered: holds its blocks until they have been fetched
  };

  struct Sequence {
    RequestId request;
    std::int32_t priority = 0;
    SimTime arrival;
    std::int32_t prompt = 0;
    std::int32_t max_output = 0;  // client's limit, cut at max_model_len
    std::int32_t outputs = 0;     // sampled so far; while decoding it follows from last_step
    std::int64_t target = 0;      // tokens to compute before the next one is sampled: prompt + outputs at
                                  // admission
    std::int64_t computed = 0;    // while prefilling or paused
    std::int64_t base = 0;        // while decoding: context before step k is base + k
    std::int64_t first_decode = 0, left_decode = 0;  // it decodes in steps [first, left); left: not decoding
    std::int64_t last_step = -1;  // step in which its last token is sampled, if nothing intervenes
    std::uint64_t order = 0;      // admission number: position in the running list
    Slot previous = no_slot, next = no_slot;  // running list
    KvBlockManager::Handle kv = 0;
    std::uint32_t epoch = 0;  // tells stale heap entries
    State state = State::waiting;
    RequestLeg leg = RequestLeg::whole;
    bool pulled = false;       // loading: its blocks come from another instance
    std::int32_t fetched = 0;  // tokens that did
    bool named = false;        // content that other sequences can share: blocks are published as they fill
    bool admitted = false;     // was admitted before
    bool grown_this_step = false;  // holds a block for a decode of the step under way, to be taken back
    bool in_flight_when_preempted = false;  // its last token is delivered while it waits (§1.3)
    // Speculation (§1.8): the engine's own counts, because a sequence's advance is known from outcomes only.
    // `outputs` are those delivered then, and `computed` holds while decoding too.
    struct Speech {
      std::int64_t blocks = 0;        // held, hits included
      std::int64_t hashed = 0;        // tokens whose full blocks are registered
      std::int32_t placeholders = 0;  // tokens in flight, drafts included (num_output_placeholders)
      std::int32_t drafts = 0;        // to be verified next (spec_token_ids)
      std::int32_t drafts_seen = 0, accepted_seen = 0;
      bool passed_over = false;  // in the last step that ran others
      // Pipeline stages: the first step that it may decode in, and tokens of its own in flight.
      std::int64_t next_step = 0;
      std::int32_t in_flight = 0;
    } speech = {};
  };

  // schedule(), in the engine's order
  void begin_plan();
  void retire_ended(std::int64_t before_step);
  void rejoin_paused();
  bool schedule_running_at_once(std::int64_t& budget);
  void schedule_running_in_order(std::int64_t& budget);
  bool schedule_in_order(Slot slot, std::int64_t& budget, std::int64_t* decoded_context);
  bool make_room(Slot slot, std::int64_t blocks, std::int64_t& budget);
  void leave_out_behind(Slot gone);
  void preempt(Slot slot, bool given_slots);
  void requeue(Slot slot);
  void pause(Slot slot);
  void enqueue(Slot slot, bool preempted);
  bool before(Slot a, Slot b) const;
  Slot victim(Slot needy, std::int64_t& budget);
  void admit_waiting(std::int64_t& budget);
  enum class Admit : std::uint8_t {
    admitted,
    set_aside,  // waits for a transfer; others may pass it
    blocked,    // nobody behind it is tried
  };
  void admit_around_transfers(std::int64_t& budget);
  Admit try_admit(Slot slot, std::int64_t& budget);
  Admit begin_load(Slot slot, KvBlockManager::Hit hit, std::int64_t blocks);
  void store_on_host(Slot slot, std::int64_t tokens, bool behind_step) {
    offload_->store(slot, tokens / config_.block_size, sequences_[slot].prompt, behind_step,
                    windows_ ? windows_->begin(slot) : 0);
  }
  Admit fits_for_load(KvBlockManager::Fetch fetch, std::int64_t gate) const;
  void take_for_load(Sequence& s, KvBlockManager::Hit hit, std::int64_t total, std::int64_t begin);
  std::deque<Slot>& queue_to_serve();
  bool waits_for_loaded() const;
  bool still_loading(Slot slot) const {
    return sequences_[slot].pulled || (offload_ != nullptr && offload_->loading(slot));
  }
  std::int64_t reserved_for_prefills() const;
  std::int64_t watermark_blocks() const;
  void add_chunk(Slot slot, std::int64_t tokens);
  const StepPlan& finish_plan();
  void start_sampling(Slot slot, OpenStep& open);
  std::int64_t stretch_limit() const;
  void digest_plan(std::int64_t decode_sequences, std::int64_t decode_context, std::int64_t free_blocks);

  // speculation (vllm_v1_speculation.cpp)
  bool speculates() const { return config_.speculation.tokens > 0; }
  bool staged() const { return config_.pipeline.stages > 1; }
  // Steps walk the running list, and outcomes say who said what.
  bool walks() const { return speculates() || staged(); }
  bool asynchronous() const { return staged() ? config_.pipeline.asynchronous : config_.steps_in_flight > 1; }
  const StepPlan& finish_empty();
  void schedule_running_speculating(std::int64_t& budget);
  bool schedule_verification(Slot slot, std::int64_t& budget);
  void take_back_verification(Slot slot, std::int64_t& budget);
  bool last_token_certain(const Sequence& s) const;
  void pass_over(Slot slot);
  void start_speaking(Slot slot);
  void preempt_speaking(Slot slot);
  std::int32_t drop_speaking(Slot slot);
  const UpdateEffects& take_spoken(const StepOutcome& outcome);
  bool take_tokens(const SpokenTokens& said);
  KvBlockManager::Hit drop_last(const Sequence& s, KvBlockManager::Hit hit) const;
  // Tokens that need a slot when so many are computed; drafts of the network come on top. Not beside cached
  // states, whose groups take none for them (`num_tokens_main_model`): here the others take theirs late too.
  std::int64_t with_lookahead(std::int64_t tokens) const {
    const std::int64_t ahead = config_.kv_groups.cached_states ? 0 : config_.speculation.lookahead;
    return std::min(tokens + ahead, config_.max_model_len);
  }
  std::int64_t blocks_held(const Sequence& s, std::int64_t computed) const {
    return walks() ? s.speech.blocks : blocks_for(computed);
  }

  // prefill and decode apart (vllm_v1_remote.cpp)
  void hold(Slot slot, std::int64_t computed);
  void give_back_held(Slot slot);
  Admit begin_pull(Slot slot, KvBlockManager::Hit hit);
  void notice_remote_ends();
  void refuse_pull(Slot slot);
  void lose_pulled(Slot slot);
  void send_prompt(Slot slot) {
    remote_.sends.push_back(
        {.request = sequences_[slot].request, .sequence = SequenceId(slot), .step = next_step()});
  }

  // on_outcome()
  void extend_stretch(std::int64_t extra_steps);
  void finish_ended(std::int64_t step, std::size_t update);
  void finish_early(SequenceId sequence, std::int64_t step, std::size_t update);
  void finish(Slot slot, std::int32_t outputs, std::int64_t computed, std::size_t update);

  // helpers
  std::int64_t blocks_for(std::int64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  // groups of layers (vllm_v1_states.cpp)
  std::int64_t gate_blocks(std::int64_t hit_blocks, std::int64_t tokens, std::int64_t begin = 0) const;
  std::int64_t chunk_blocks(std::int64_t blocks) const;
  std::int64_t certain(std::int64_t computed) const;
  std::int64_t in_all_groups(std::int64_t blocks) const { return blocks * config_.kv_groups.count(); }
  std::int64_t state_blocks() const {
    return std::int64_t{config_.kv_groups.states} * config_.kv_groups.blocks_of_state;
  }
  std::int64_t at_block_ends(const Sequence& s, std::int64_t tokens, std::int64_t attended = 0) const;
  void leave_decode_set(Slot slot, std::int64_t last_step);
  void release_blocks(Slot slot, std::int64_t total, std::int64_t hashed);
  std::int64_t chunk_size(const Sequence& s, std::int64_t budget) const;
  // What the encoder lets through of a chunk; all of it when the model has none.
  std::int64_t with_images(Slot slot, std::int64_t tokens) {
    return encoder_ == nullptr ? tokens : encoder_->limit(slot, sequences_[slot].computed, tokens);
  }
  std::int64_t context_of(const Sequence& s) const;  // tokens in the KV cache, steps in flight included
  void enter_decode_set(Slot slot, std::int64_t first_step, std::int64_t context);
  void link_running(Slot slot);
  void unlink_running(Slot slot);
  std::int32_t known_outputs(const Sequence& s) const;
  void drop_slot(Slot slot);

  SchedulerConfig config_;
  KvBlockManager kv_;
  std::unique_ptr<VllmOffload> offload_;  // null: no tier in host memory
  std::deque<Slot> skipped_;              // set aside: `skipped_waiting`, served before waiting_
  std::vector<Slot> aside_;               // of the pass under way: back to the front of skipped_ after it
  std::vector<TransferWork> transfers_;
  std::vector<HostLoad> host_loads_;
  struct Remote {
    struct Ended {
      Slot slot = 0;
      std::int64_t step = -1;  // the first one launched after the end; −1: none yet
      bool failed = false;
    };
    std::int32_t held = 0, pulling = 0;
    std::vector<PullWork> pulls, issued;
    std::vector<SendWork> sends, sent;
    std::vector<Ended> ended;  // transfers that the engine has not noticed yet, in order
  } remote_;
  Digest transfer_digest_;                 // of the ends of transfers
  std::unique_ptr<VllmEncoder> encoder_;   // null: a text-only model
  std::unique_ptr<WindowSlides> windows_;  // only when some layers have a sliding window
  std::vector<Sequence> sequences_;
  SlotPool slots_;
  std::deque<Slot> waiting_;
  Slot running_head_ = no_slot, running_tail_ = no_slot;
  std::int32_t running_count_ = 0;
  std::vector<Slot> prefilling_;  // running order
  std::vector<Slot> paused_;
  std::vector<Slot> last_token_;  // sequences whose last token is in flight
  DecodeSet decodes_;
  DecodeEnds ends_;
  std::uint64_t next_order_ = 0;
  std::uint64_t highest_decode_order_ = 0;
  std::int64_t next_step_ = 0, updated_steps_ = 0;
  OpenSteps<OpenStep> open_;

  // §1.9: prompts wait for a step of their cadence; unless somebody was left waiting in the last one.
  bool throttled_ = false, deferring_ = false, capacity_bound_ = false;
  // The head of the queue failed its memory gate; it need not be tried again until memory changed hands.
  bool head_blocked_ = false;

  StepPlan plan_;
  std::vector<PrefillWork> chunks_;
  std::vector<VerifyWork> verify_;
  std::vector<Slot> ended_;  // by the outcome at hand
  std::vector<SequenceId> preempted_, preempted_for_, paused_now_, irregular_now_, early_, aborted_;
  std::vector<Admission> admissions_;
  std::int32_t plan_decodes_ = 0;
  std::int64_t plan_decode_context_ = 0;
  std::int64_t plan_prefill_tokens_ = 0;
  UpdateEffects effects_;
  SchedulerCounters counters_;
  Digest digest_;
};

}  // namespace orrery
