// TensorRT-LLM 1.2's scheduler as PyExecutor drives it (rules: ../shared/reference/tensorrt_llm_1_2.md, cited
// as §… below): a capacity scheduler decides who may hold blocks, a micro-batch scheduler who gets tokens.
// Beam 1, no LoRA, at most one attention window beside the whole sequence. Ranks of attention data
// parallelism have one of these each (tensorrt_llm_ranks.h).
//
// The engine walks every active request twice a pass. Here generations are a DecodeSet of sums, what they may
// still claim is one number (`owed_`), and ends stand in a heap, so a pass costs O(changes + contexts looked
// at). Where the order of generations decides something, the active list is walked as the engine does; with
// `stretches` off it always is, so that a test compares both ways.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <vector>

#include "base/digest.h"
#include "sim/decode_ends.h"
#include "sim/decode_set.h"
#include "sim/encode_on_touch.h"
#include "sim/micro_batch_ring.h"
#include "sim/open_steps.h"
#include "sim/scheduler.h"
#include "sim/schedulers/tensorrt_llm_kv.h"
#include "sim/slot_pool.h"

namespace orrery {

class TensorRtLlmScheduler final : public Scheduler, private DecodingTokens {
 public:
  explicit TensorRtLlmScheduler(const SchedulerConfig& config);

  SequenceId add(const Request& request) override;
  bool refuses(const Request& request) const;
  const StepPlan& schedule() override;
  // schedule() in two parts, between which the ranks of attention data parallelism agree: who would run; and
  // who does, `contexts` (or generations alone) if anybody `runs`.
  struct Batch {
    std::int64_t contexts = 0, generations = 0;
    bool empty() const { return contexts + generations == 0; }
  };
  Batch compose();
  const StepPlan& launch(bool contexts, bool runs);
  const std::vector<Admission>& admissions() const override { return admissions_; }
  const UpdateEffects& on_outcome(const StepOutcome& outcome) override;
  bool has_work() const override { return requests_ > 0; }
  void append_decoding(std::vector<DecodingToken>& tokens) const override;  // decoding_tokens.cpp
  StepId next_step() const override { return StepId(static_cast<std::uint64_t>(next_step_)); }
  std::int32_t open_steps() const override { return static_cast<std::int32_t>(next_step_ - updated_steps_); }
  SchedulerView view() const override;
  const SchedulerCounters& counters() const override { return counters_; }
  KvUsage kv_usage() const override {
    return {.total_blocks = kv_.num_blocks(),
            .usable_blocks = kv_.num_blocks(),
            .allocated = kv_.allocated_in_total()};
  }
  OffloadCounters offload_counters() const override;
  EncoderCounters encoder_counters() const override {
    return encoder_ == nullptr ? EncoderCounters{} : encoder_->counters();
  }
  std::int32_t drop_departed(SequenceId sequence) override;
  bool awaits_transfer() const override { return remote_.held + remote_.receiving > 0; }
  // Of its active requests all wait for blocks or a transfer; or for a transfer of which none has ended.
  bool only_transfers() const;
  bool waits_for_transfer() const;
  // Those in transfer wait too, and hold nobody up.
  bool newcomer_may_run() const override { return config_.pulls_kv || Scheduler::newcomer_may_run(); }
  std::span<const PullWork> take_pulls() override;
  bool on_remote_end(SequenceId sequence, bool said_eos) override;
  bool on_remote_failure(SequenceId sequence) override;
  std::int32_t outputs_of(SequenceId sequence) const override;
  std::uint64_t digest() const override { return digest_.value(); }
  std::int64_t window_free_blocks() const {  // of the layers with a window
    return window_kv_ ? window_kv_->free_blocks() : window_free_;
  }
  void check_invariants() const {  // O(everything), for tests
    kv_.check_invariants();
    if (window_kv_) window_kv_->check_invariants();
  }

 private:
  using Slot = std::uint32_t;
  static constexpr Slot no_slot = static_cast<Slot>(-1);

  enum class State : std::uint8_t {
    queued,       // not fetched: the executor does not see it
    context,      // active, no chunk run, holds nothing (fresh or paused)
    prefilling,   // active, holds its whole prompt's blocks
    decoding,     // in the decode set
    passed,       // decoding, passed over in the last step: no budget left for it
    to_complete,  // its last token is in flight: not scheduled, holds blocks and its place (§1.2)
    // Prefill and decode apart (tensorrt_llm_disaggregation.cpp).
    init,       // decode leg, active, waits for blocks
    receiving,  // and has them: active, not scheduled
    held,       // prefill leg, answered: no longer active, its blocks are pinned
  };

  struct Sequence {
    RequestId request;
    std::int32_t prompt = 0;
    std::int32_t max_output = 0;  // client's limit, cut at max_seq_len
    std::int32_t outputs = 0;     // sampled so far; while decoding it follows from last_step
    std::int64_t target = 0;      // the engine's prompt_len: prompt + outputs at the last pause
    std::int64_t computed = 0;    // tokens in the KV cache while not decoding
    std::int64_t base = 0;        // while decoding: context before step k is base + k
    std::int64_t last_step = -1;  // step in which its last token is sampled, if nothing intervenes
    std::uint64_t order = 0;      // place in the active list, kept across pauses
    Slot previous = no_slot, next = no_slot;
    TensorRtLlmKvPool::Handle kv = 0;
    std::uint32_t epoch = 0;  // tells stale heap entries
    std::uint32_t stay = 0;   // counts pauses and ends: tells stale stores
    State state = State::queued;
    RequestLeg leg = RequestLeg::whole;
    bool said_eos = false;         // receiving: the token that comes is its last
    std::int64_t paused_at = 0;    // the first step without it
    bool admitted = false;         // was admitted before
    std::uint64_t key = 0;         // §2.4: the first block it would add to the tree,
    bool has_key = false;          //   if any,
    std::int64_t left_window = 0;  // blocks that its window has left behind
    std::int64_t window_hits = 0;  // of its first blocks there: found, so maybe others' too
    TensorRtLlmKvPool::Handle window_kv = 0;
    std::uint64_t key_version = 0;  //   as of this version of the tree (+ 1)
    // Speculation (§8): an advance is known from outcomes only, and `outputs` are those delivered then.
    struct Speech {
      std::int64_t tokens = 0;     // the engine's count for the KV cache: drafts not yet taken back included
      std::int64_t blocks = 0;     // held
      std::int32_t in_flight = 0;  // rows in open steps
      std::int32_t given = 0;      // drafts that its newest row has room for
      std::int32_t proposed = 0;   // by n-grams, for its next row
      std::int32_t drafts_seen = 0, accepted_seen = 0;
      bool spoke = false;        // its first token since the admission is known
      bool passed_over = false;  // in the last step that ran others
    } speech = {};
  };

  struct Store {  // §4.3: blocks that the update of a step makes findable
    Slot slot;
    std::uint32_t stay;
    std::int64_t tokens;
  };

  struct Ended {
    std::uint64_t order;
    Slot slot;
    bool by_eos;
  };

  struct Open : OpenStep {
    std::vector<Store> stores;
    void clear() {
      OpenStep::clear();
      stores.clear();
    }
  };

  struct Row {  // a context that runs in this step
    Slot slot;
    std::int64_t tokens;
  };

  // schedule(), in the engine's order
  void read_batch_waiting();
  void begin_plan();
  void fetch();
  void retire_ended(std::int64_t before_step);
  void rejoin_passed();
  void choose();
  void pause(Slot slot);
  void prepare_contexts();
  void prepare_generations();
  void encode_images();
  const StepPlan& finish_plan();
  void start_sampling(Slot slot, OpenStep& open);
  std::int64_t stretch_limit() const;
  void digest_plan(std::int64_t decode_sequences, std::int64_t decode_context, std::int64_t free_blocks);

  // tensorrt_llm_choice.cpp: who runs
  bool choose_at_once();
  bool waits_for_batch();
  void choose_no_evict();
  void choose_max_utilization();
  void fit_max_utilization();
  void run_in_list_order();
  bool take_contexts(std::int64_t available, std::int64_t& budget);
  bool find_key(Slot slot);
  bool is_duplicate(Slot slot);
  void note_keys_in_progress();
  bool add_whole(Slot slot, std::int64_t& budget);
  void add_chunk(Slot slot, std::int64_t& budget);
  bool fits_behind(Slot slot, std::int64_t budget) const;
  void spread_chunks(std::int64_t budget);
  void order_rows();
  void sort_equal_rows(std::size_t first, std::size_t last);
  void run_generation(Slot slot);
  void pass_over(Slot slot);
  std::int64_t blocks_to_completion(const Sequence& s) const;
  std::int64_t blocks_of_next_step(const Sequence& s) const;
  bool started_behind(std::uint64_t order) const;

  // on_outcome()
  void extend_stretch(std::int64_t extra_steps);
  void finish_ended(const StepOutcome& outcome, std::int64_t step, std::size_t update);
  void finish_early(Slot slot, std::int64_t step, std::size_t update);
  void finish(Slot slot, std::int32_t outputs, std::int64_t computed, std::size_t update);
  void store_contexts();

  // tensorrt_llm_speculation.cpp
  bool speculates() const { return config_.speculation.tokens > 0; }
  bool walks() const { return speculates() || staged(); }  // the active list, in every pass
  std::int64_t row_tokens() const { return 1 + config_.speculation.tokens; }  // of a generation (§3.1)
  void begin_speaking();
  void run_speaking(Slot slot);
  void prepare_speaking();
  void grow_speaking(Sequence& s, std::int64_t blocks);
  void start_speaking(Slot slot);
  std::int64_t pause_speaking(Sequence& s);
  const UpdateEffects& take_spoken(const StepOutcome& outcome);
  bool take_tokens(const SpokenTokens& said);
  void rewind(Sequence& s, std::int64_t tokens);
  void finish_speaking(Slot slot);

  // tensorrt_llm_disaggregation.cpp
  void begin_remote_pass();
  void notice_sent();
  void take_received();
  void join(Slot slot);
  void lose(Slot slot);
  void admit_inits();
  std::int64_t owed() const;
  void hold(Slot slot, std::int32_t outputs, std::size_t update, bool said_eos);
  std::int64_t unfilled(const Sequence& s) const { return reserve_of(s) - blocks_for(s.prompt); }
  void leave_active(Slot slot) {
    unlink_active(slot);
    drop_slot(slot);
  }

  // tensorrt_llm_stages.cpp
  bool staged() const { return config_.pipeline.micro_batches > 1; }
  const StepPlan& go_round();
  // §1.1. Layers with a state have one for max_batch_size requests, whatever the stages (MambaCacheManager,
  // `_prepare_mamba_cache_blocks`): the engine takes in more and may fail, here they wait.
  std::int64_t most_active() const {
    return config_.max_num_seqs * (rules_.states ? 1 : config_.pipeline.stages);
  }
  bool in_flight(const Sequence& s) const { return staged() && s.speech.in_flight > 0; }
  bool is_full() const {  // the micro-batch being composed
    return staged() && static_cast<std::int64_t>(rows_.size()) + plan_decodes_ >= config_.max_num_seqs;
  }

  // tensorrt_llm_windows.cpp
  bool windowed() const { return rules_.window > 0; }
  std::int64_t window_held(const Sequence& s) const { return held_blocks(s) - s.left_window; }
  std::int64_t window_to_completion(const Sequence& s) const;
  std::int64_t window_next_step(const Sequence& s) const;
  std::int64_t take_window(Sequence& s, std::int64_t tokens, std::int64_t hit);
  void add_to_window(std::int64_t blocks);
  TensorRtLlmKvPool::HostUse host_use() const;
  void slide_window(Sequence& s, std::int64_t tokens);
  void grow_windows();
  std::int64_t window_spare() const;
  std::int64_t window_peak(const Sequence& s) const;
  std::int64_t simulate_window_release(const Sequence& s);
  void release_window(Sequence& s, std::int64_t held, std::int64_t stored, bool comes_back);

  // helpers
  // §3.2: what attention kernels read at once, with a window (_torch/pyexecutor/_util.py).
  std::int64_t chunk_unit() const {
    return windowed() ? std::max<std::int64_t>(256, config_.block_size) : config_.block_size;
  }
  std::int64_t blocks_for(std::int64_t tokens) const {
    return (tokens + config_.block_size - 1) / config_.block_size;
  }
  std::int64_t reserve_of(const Sequence& s) const { return blocks_for(s.prompt + s.max_output); }
  static bool is_generation(const Sequence& s) {
    return s.state == State::decoding || s.state == State::passed || s.state == State::to_complete;
  }
  // STATIC_BATCH (capacityScheduler.cpp, GuaranteedNoEvictScheduler<true>): nobody is taken in beside
  // generations, nor passed over for a block that another one computes.
  bool is_static() const { return config_.options.has("static_batch"); }
  bool takes_in() const { return !is_static() || started_ == prefilling_; }
  static bool is_started(const Sequence& s) { return is_generation(s) || s.state == State::prefilling; }
  std::int64_t context_of(const Sequence& s) const {  // tokens in the KV cache, steps in flight included
    if (walks() && is_generation(s)) return s.speech.tokens - config_.speculation.lookahead;
    return s.state == State::decoding ? s.base + next_step_ : s.computed;
  }
  std::int64_t held_blocks(const Sequence& s) const {
    if (walks()) return s.speech.blocks;
    return s.state == State::prefilling ? blocks_for(s.target) : blocks_for(context_of(s));
  }
  std::int32_t outputs_before_next_step(const Sequence& s) const {
    return s.max_output - static_cast<std::int32_t>(s.last_step - next_step_ + 1);
  }
  bool needs_new_block(std::int64_t context) const { return context % config_.block_size == 0; }
  void enter_decode_set(Slot slot, std::int64_t first_step, std::int64_t context);
  void link_active(Slot slot);
  void unlink_active(Slot slot);
  void drop_slot(Slot slot);

  SchedulerConfig config_;
  TensorRtLlmRules rules_;
  MicroBatchRing ring_;  // pipeline stages
  TensorRtLlmKvPool kv_;
  std::vector<Sequence> sequences_;
  SlotPool slots_;
  std::int64_t requests_ = 0;
  std::deque<Slot> queue_;     // §1.1: behind the cap on active requests, or not fetched yet
  bool waits_in_get_ = false;  // §1.4: idle when the first of `queue_` came
  bool fetches_all_ = false;   // and not one request, though idle
  // Batch waiting: for at most so many passes prompts wait beside generations for so many tokens together;
  // and passes in a row in which they did.
  std::int64_t batch_wait_iters_ = 0, batch_wait_tokens_ = 0, batch_waits_ = 0;
  Slot active_head_ = no_slot, active_tail_ = no_slot;
  std::int32_t active_count_ = 0, started_ = 0;
  std::vector<Slot> contexts_;  // states context and prefilling, in list order
  std::int32_t prefilling_ = 0;
  std::vector<Slot> passed_, to_complete_;
  DecodeSet decodes_;
  std::int64_t owed_ = 0;  // blocks that generations may still take until their limits
  DecodeEnds ends_;
  std::uint64_t next_order_ = 0;
  std::uint64_t highest_started_ = 0;  // no started sequence has a higher order
  std::int64_t next_step_ = 0, updated_steps_ = 0;
  OpenSteps<Open> open_;
  std::vector<Ended> ended_;
  std::vector<Slot> leaving_;  // cancelled, to end with the next update
  std::vector<Store> stores_;

  struct Remote {
    std::vector<Slot> inits;    // in list order
    std::int64_t reserved = 0;  // part of owed_: of those that are receiving
    std::int32_t receiving = 0, held = 0;
    bool polls = false;  // a context was sent since transfers were asked for last
    struct Ended {
      Slot slot;
      bool failed;
    };
    std::vector<Ended> ended;  // that no pass has noticed yet
    std::vector<PullWork> pulls, pulled;
    std::vector<HandedWork> handed;
    std::vector<PrefillWork> joined, launched;
    std::vector<SequenceId> aborted;
  } remote_;

  // The plan being composed
  StepPlan plan_;
  std::vector<Row> rows_;
  std::vector<Slot> fits_, victims_, victims_for_;
  std::vector<std::uint64_t> keys_;  // §2.4, sorted
  std::vector<PrefillWork> chunks_;
  std::vector<VerifyWork> verify_;              // speculation: the generations
  std::int64_t offloaded_ = 0, onboarded_ = 0;  // §4.5: until the last plan
  std::uint64_t onboarding_ = 0;                // prompts that found blocks in host memory
  bool drafting_ = false;                       // §8 max_concurrency
  std::vector<Slot> spoken_ends_;
  std::int64_t window_free_ = 0;                // blocks of the windowed layers' pool, without reuse
  std::optional<TensorRtLlmKvPool> window_kv_;  // that pool, with reuse
  std::int64_t window_available_ = 0;           // of them, for the contexts that are looked at next
  std::unique_ptr<EncodeOnTouch> encoder_;      // null: a text-only model
  std::vector<SequenceId> preempted_, preempted_for_, passed_now_, irregular_now_;
  std::vector<Admission> admissions_;
  bool chunked_ = false;         // some context was cut or left out: the rows are partitioned (§3.3)
  bool budget_blocked_ = false;  // a context with blocks at hand found no token
  std::int32_t plan_decodes_ = 0;
  std::int64_t plan_decode_context_ = 0, plan_decode_blocks_ = 0, plan_prefill_tokens_ = 0;
  UpdateEffects effects_;
  SchedulerCounters counters_;
  Digest digest_;
};

}  // namespace orrery
