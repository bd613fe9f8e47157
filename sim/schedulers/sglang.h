// SGLang's scheduler, version 0.5.23 (rules: ../shared/reference/sglang_0_5.md, cited as §… below).
//
// Prefill first: a step is a prefill batch whenever one can be composed, and the running requests stand still
// meanwhile (§1.4). With the overlap loop, schedule() runs while the step before is on the device, so that
// its tokens are not counted anywhere yet (§1.2).
//
// The running batch decodes all together or not at all. So its members are a DecodeSet of sums over a count
// of *decode steps*, which a prefill step does not move; ends stand in a heap by decode step. A decode step
// costs O(changes); only retraction walks the batch. With speculation, whose advance is random, every step
// walks it (sglang_speculation.cpp).
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "base/digest.h"
#include "sim/decode_ends.h"
#include "sim/decode_set.h"
#include "sim/encode_on_touch.h"
#include "sim/micro_batch_ring.h"
#include "sim/schedulers/sglang_budget.h"
#include "sim/schedulers/sglang_config.h"
#include "sim/slot_pool.h"

namespace orrery {

struct PublishedLoad;  // sim/sglang_balancer.h

class SglangScheduler final : public Scheduler, private DecodingTokens {
 public:
  explicit SglangScheduler(const SglangConfig& config);

  void at(SimTime now) override { now_ = now; }
  bool watches_time() const override { return config_.delays.on && config_.delays.queue_ratio > 0; }
  SequenceId add(const Request& request) override;
  const StepPlan& schedule() override;
  const std::vector<Admission>& admissions() const override { return admissions_; }
  const UpdateEffects& on_outcome(const StepOutcome& outcome) override;
  std::int32_t drop_departed(SequenceId sequence) override;
  std::int32_t outputs_of(SequenceId sequence) const override;
  // Somebody who waited was turned away for the newcomer: the next plan says so.
  bool may_overtake() const override { return !turned_away_.empty(); }
  void on_idle() override;  // §1.5
  bool has_work() const override { return live_ > 0; }
  void append_decoding(std::vector<DecodingToken>& tokens) const override;  // decoding_tokens.cpp
  StepId next_step() const override { return StepId(static_cast<std::uint64_t>(next_step_)); }
  std::int32_t open_steps() const override { return static_cast<std::int32_t>(next_step_ - updated_steps_); }
  SchedulerView view() const override;
  const SchedulerCounters& counters() const override { return counters_; }
  KvUsage kv_usage() const override;
  EncoderCounters encoder_counters() const override {
    return encoder_ == nullptr ? EncoderCounters{} : encoder_->counters();
  }
  std::uint64_t digest() const override;

  OffloadCounters offload_counters() const override;
  std::span<const TransferWork> take_transfers() override;
  std::span<const HostLoad> host_loads() const override { return host_loads_; }
  bool on_transfer(std::uint64_t transfer) override;
  PublishedLoad load() const;  // as its rank publishes it (`SchedulerLoadInquirer.get_loads`)
  bool awaits_transfer() const override { return !open_backups_.empty() || awaits_other_side(); }
  std::span<const PullWork> take_pulls() override;
  std::span<const SendWork> take_sends() override;
  bool on_remote_end(SequenceId sequence, bool said_eos) override;
  bool on_remote_failure(SequenceId sequence) override;
  bool on_room(SequenceId sequence) override;

  // Ranks that negotiate (sglang_delays.cpp): a pass up to the question whether prompts may run; the answer
  // before schedule(); and what others' prompts, or a pass without requests, mean.
  PrefillVote open_pass();
  void answer(bool allowed) { answer_ = allowed; }
  bool put_off() const { return put_off_ || deferred_; }
  void pass_idle();
  void prompts_ran();

  const RadixCache& cache() const { return cache_; }  // for tests
  bool watch_cache(CacheEvents* events) override {
    cache_.watch(events);
    return true;
  }
  double new_token_ratio() const { return ratio_.now(); }
  bool batch_is_full() const { return batch_is_full_; }

 private:
  using Slot = std::uint32_t;
  static constexpr Slot no_slot = static_cast<Slot>(-1);

  enum class State : std::uint8_t {
    waiting,    // queued, holds nothing (fresh or retracted)
    chunked,    // part of its prompt computed or being computed: at most one
    prefilled,  // its prompt is in the last step; not in the running batch yet
    decoding,   // running, in the decode set
    ending,     // its last token is in flight; running until a decode step leaves it out
    // Prefill and decode apart (sglang_disaggregation.cpp).
    apart,      // prefill: the other side has no room yet; decode: no room yet
    held,       // prefill: computed, its KV is on its way
    receiving,  // decode: has its slots
    received,   // and its KV; waits for a place in the batch
  };

  // With speculation only: what is known of a sequence since its last admission.
  struct Speech {
    std::int32_t outputs = 0;               // processed
    std::int64_t committed = 0;             // tokens whose KV stays (kv_committed_len)
    std::int64_t allocated = 0;             // tokens that have a slot (kv_allocated_len)
    std::int64_t step = -1;                 // that it last took part in
    std::int64_t verified = 0;              // verifications since its prompt (decode_batch_idx)
    std::int32_t drafts = 0, accepted = 0;  // in its life
  };
  struct Sequence {
    RequestId request;
    std::int32_t prompt = 0;
    std::int32_t max_output = 0;  // client's limit, cut (§1.5)
    std::int64_t priority = 0;    // the less, the sooner, whatever the engine's direction
    std::int32_t outputs = 0;     // known when it was queued last; decoding, they follow from last_decode
    bool ignore_eos = false;
    TokenRuns content;
    std::int64_t prefix = 0, extend_end = 0;   // of its latest chunk: [prefix, extend_end)
    std::int64_t in_tree = 0;                  // tokens that the tree owns (cache_protected_len)
    std::int64_t inserted = 0;                 // of them, those it brought (cache_inserted_len)
    RadixCache::Node node = RadixCache::root;  // locked
    std::int64_t base = 0;                     // decoding: context before decode step k is base + k
    std::int64_t last_decode = -1;             // decode step that samples its last token
    std::int64_t prefill_step = -1;            // step that sampled its latest token after a prompt
    std::int64_t order = 0;                    // place in its batch
    std::int64_t looked_up = 0;                // length of its input when it was looked up last
    std::int64_t queued = 0;                   // when it entered the queue, by count
    std::int64_t queued_at_tokens = 0;         // and by prefill tokens (arrival_processed_tokens)
    std::uint64_t routing_key = 0;             // 0 = none
    std::uint32_t epoch = 0;                   // tells stale entries
    State state = State::waiting;
    bool locked = false;
    bool running = false;   // in the running batch
    bool admitted = false;  // was admitted before
    // With a pool for windowed layers only.
    std::int64_t window_begin = 0;  // tokens before have lost their slots (swa_evicted_seqlen)
    std::int64_t window_lock = 0;   // where the locked part of the tree begins
    std::int64_t branch = 0;        // the next insertion ends here (swa_branching_seqlen), or the next state
                                    // (mamba_branching_seqlen)
    std::int64_t extends = 0;       // chunks since its admission
    // With layers that keep a state only.
    std::int64_t states = 0;   // slots it holds
    std::int64_t tracked = 0;  // prefix whose state it has and the tree not yet; 0 = none
    std::int64_t missed = 0;   // the last boundary that it decoded past without leaving a state,
    std::int64_t kept = 0;     // and the last before it where it left one; 0 = none
    Speech speech;
    bool room = false;                                                     // apart: the decode side has some
    bool said_eos = false;                                                 // received: with its last token
    std::int64_t input() const { return std::int64_t{prompt} + outputs; }  // to be prefilled
  };

  struct Entry {
    Slot slot;
    std::uint32_t epoch;
  };
  struct Launched {
    bool decodes = true;  // ran the decode set
    std::int32_t regular = 0;
    std::vector<SequenceId> irregular;
    std::vector<Entry> prefilled;  // prompts that end in this step, in batch order
    struct Verified {
      Entry entry;
      bool irregular;
    };
    std::vector<Verified> verified;                     // speculation: decodes in batch order
    bool mixed = false;                                 // speculation: beside prompts, without drafts
    std::vector<std::pair<Entry, std::int64_t>> parts;  // prefill role: chunks that are not the last, and
                                                        // ends
  };

  // One prefill attempt (PrefillAdder and PrefillBudget, §2.4).
  struct Adder {
    double total_offset = 0;  // reserved of free and evictable tokens, futures of the running included
    std::int64_t current_offset = 0;   // of them, what this batch allocates
    std::int64_t windowed_offset = 0;  // reserved in the windowed layers' pool
    std::int64_t rem_input = 0, rem_chunk = 0;
    std::vector<Slot> batch;
    Slot new_chunked = no_slot;
    std::vector<std::pair<double, std::int64_t>> states;  // §2.5: tokens left, tokens occupied
    bool has_states = false;
    bool tries = false;          // none of §2.1's early exits
    bool little_used = false;    // the pools, by the prefill delayer's low watermark
    bool asked = false;          // the delayer: somebody could be admitted
    bool polls = false;          // only to find out whether somebody could
    bool made_room = false;      // whoever the first candidate displaces has been displaced
    std::int64_t attempted = 0;  // requests that the delayer takes the attempt for, when nothing comes of it
  };
  enum class Answer : std::uint8_t { go_on, no_token, other };
  struct Shape {
    Answer verdict = Answer::go_on;
    std::int64_t extend = 0;
    bool chunked = false;
  };
  enum class Kind : std::uint8_t { none, extend, mixed, decode };

  // sglang.cpp: one pass of the loop
  Kind run_pass();
  void begin_pass();
  void begin_plan();
  void stash_chunk();
  void merge_last_batch();
  void merge(Slot slot);
  void retire_ended(std::int64_t before_decode);
  bool defer_prefill();
  void encode_images();
  const StepPlan& finish_plan(Kind kind);
  std::int64_t stretch_limit(Kind kind) const;
  void digest_plan(std::int64_t decodes, std::int64_t context, std::int64_t free);

  // sglang_prefill.cpp
  Kind prefill();
  Adder begin_attempt();
  Kind attempt(Adder& adder);
  std::int64_t chunk_tokens(const Adder& adder) const;
  Adder make_adder();
  double running_offset();
  void continue_chunk(Adder& adder);
  void admit_from_queue(Adder& adder);
  Answer add_one(Adder& adder, Slot slot, const RadixCache::Match& hit);
  Shape shape_of(const Adder& adder, const Sequence& s, std::int64_t on_host, std::int64_t limit) const;
  Answer add_fixed_length(Adder& adder, Slot slot);
  bool outlasts(Adder& adder, Slot slot, std::int64_t cost);
  void commit(Adder& adder, Slot slot, std::int64_t extend, bool chunked);
  Answer budget_state(const Adder& adder) const;
  void reserve(Adder& adder, std::int64_t extend, std::int64_t future);
  double remaining_total(const Adder& adder) const;
  std::int64_t remaining_current(const Adder& adder) const;
  bool allocate_batch(const Adder& adder);
  void launch_batch(const Adder& adder);
  Kind mix_with_running();

  // sglang_queue.cpp
  void order_queue();
  void touch_waiting_prefixes();
  void sort_by_prefix();

  // sglang_policies.cpp
  static RadixCache simulated_tree();
  bool find_prefix(Sequence& s, RadixCache& queue, RadixCache::Node& node);
  void sort_by_weight();
  void sort_randomly();
  void sort_by_response_ratio();
  void sort_by_routing_key();

  // sglang_delays.cpp
  bool waits_for_free_slots() const;
  bool little_used() const;
  PrefillVote vote(const Adder& adder) const;
  PrefillDelayer::Limits delay_limits() const {
    return {.running_requests = config_.max_running_requests,
            .prefill_requests = config_.prefill_max_requests};
  }
  bool may_prefill(Adder& adder);
  void end_attempt(const Adder& adder, Kind kind);
  Adder resume_attempt();
  std::int64_t shorter_work_limit(const Adder& adder) const;

  // sglang_priority.cpp
  std::int64_t rank_of(std::int32_t priority) const;
  bool enqueue(Slot slot);
  bool queue_is_full() const {
    return config_.max_queued_requests > 0 &&
           static_cast<std::int64_t>(waiting_.size()) >= config_.max_queued_requests;
  }
  bool before(Slot a, Slot b) const;
  Slot worst_waiting() const;
  bool preempt_for(Adder& adder, Slot slot);
  void note_preemption(Slot slot, Slot by);
  double future_of(const Sequence& s) const;

  // sglang_decode.cpp
  Kind decode();
  bool leave_out_ending();
  void retract();
  std::vector<Slot> running_in_order() const;
  void retract_one(Slot slot, std::size_t remaining);
  void forget_token_in_flight(Slot slot);
  void launch_decode(bool mixed);
  void leave_decode_set(Slot slot);

  // sglang_speculation.cpp
  void start_speaking(Slot slot);
  void stop_speaking(Slot slot);
  bool leave_out_ending_speakers();
  std::int64_t speakers_need(bool in_whole_pages) const;
  void launch_verification(bool mixed);
  double speakers_offset() const;
  void take_spoken(const Launched& open, std::span<const SpokenTokens> spoken);
  void take_tokens(Slot slot, const SpokenTokens& said, bool mixed);
  std::int64_t key_length(std::int64_t tokens) const;

  // sglang_stages.cpp
  const StepPlan& go_round();
  void enter(std::size_t micro_batch);
  std::int64_t most_rows() const {  // of a running batch
    return config_.staged() ? config_.micro_batch_size : config_.max_running_requests;
  }

  // sglang_disaggregation.cpp
  bool awaits_other_side() const;
  void begin_prefill_pass();
  Kind run_decode_pass();
  void notice_ended();
  void pop_bootstrapped();
  void preallocate();
  std::int64_t retractable() const;
  bool same_by_walking(std::int64_t held, std::int64_t longest) const;  // for Debug builds
  std::int64_t longest_of(const Sequence& s) const {  // prompt and outputs, as the engine bounds them
    return s.prompt + std::min<std::int64_t>(s.max_output, config_.clip_max_new_tokens);
  }
  void resume_retracted();
  std::int64_t allocatable(std::int64_t least) const;
  void merge_received();
  void find_received(Sequence& s);
  void send_up_to(Slot slot, std::int64_t tokens, bool last);
  void send_parts(const Launched& open);
  void send_cached(const Adder& adder);
  void hold(Slot slot, std::size_t update, bool said_eos);
  void lose(Slot slot);
  std::int32_t drop_apart(Slot slot);
  std::size_t waiting_count() const {
    return waiting_.size() + remote_.queue.size() + remote_.received.size() + remote_.retracted.size();
  }

  // sglang_host.cpp
  std::int64_t load_back(Sequence& s, const RadixCache::Match& hit);
  std::int64_t host_blocks(std::int64_t full, std::int64_t windowed, std::int64_t states) const;
  void flush_backups();
  void plan_host_work();

  // sglang_windows.cpp
  void lock_prefix(Sequence& s, RadixCache::Node node);
  void unlock_prefix(Sequence& s);
  std::int64_t remaining_windowed(const Adder& adder) const {
    return cache_.windowed_available() + cache_.windowed_evictable() - adder.windowed_offset;
  }
  std::int64_t windowed_need(std::int64_t extend, std::int64_t future, std::int64_t limit) const;
  bool windows_admit(const Adder& adder, std::int64_t extend, std::int64_t future, std::int64_t on_host,
                     std::int64_t& limit) const;
  void slide(Sequence& s, std::int64_t place, std::int64_t interval);
  void plan_slide(Slot slot);
  void slide_running();
  void slide_speakers();
  void slide_prompts(const Adder& adder);

  // sglang_states.cpp
  void take_matched_state(Sequence& s, const RadixCache::Match& hit);
  void copy_state(Sequence& s, RadixCache::Node node);
  void give_back_states(Sequence& s);
  bool take_batch_states(const Adder& adder);
  void track_states(Sequence& s) const;
  void miss_state(Sequence& s, std::int64_t tokens) const;
  std::int64_t last_boundary(const Sequence& s, std::int64_t up_to) const;
  bool checkpoint_states(Sequence& s, std::int64_t up_to, bool ends);

  // sglang_update.cpp
  void extend_stretch(std::int64_t extra_steps);
  void take_prefilled(const Launched& open, std::size_t update);
  void take_ends(const Launched& open, std::size_t update);
  void finish(Slot slot, std::int32_t outputs, std::size_t update);
  void checkpoint(Slot slot, std::int64_t up_to, bool ends);
  void release(Slot slot, std::int64_t owned, std::int64_t allocated, bool keep);
  void drop_slot(Slot slot);

  // helpers
  std::int32_t batch_rows() const { return running_count_ + dead_rows_; }
  bool decode_in_flight() const { return !open_.empty() && open_.back().decodes; }
  std::int64_t decodes_known() const { return decodes_launched_ - (decode_in_flight() ? 1 : 0); }
  std::int32_t known_outputs(const Sequence& s) const;
  std::int64_t context_of(const Sequence& s) const {
    return config_.walking() ? s.speech.allocated : s.base + decodes_launched_;
  }
  // Tokens that a running sequence has been given.
  std::int64_t held_by(const Sequence& s) const {
    if (config_.walking() || s.state == State::decoding) return context_of(s);
    return s.last_decode < 0 ? s.input() : s.base + s.last_decode + 1;
  }
  std::int64_t free_tokens() const { return cache_.available() + cache_.evictable(); }
  std::int64_t decode_need() const {
    if (config_.walking()) return speakers_need(true);
    return std::int64_t{decodes_.new_blocks(decodes_launched_)} * config_.cache.page_size;
  }
  void leave_running(Sequence& s) {
    if (s.running && config_.role == SglangRole::decode) remote_.lengths.remove(longest_of(s));
    s.running = false;
  }
  bool known(const Entry& entry) const { return sequences_[entry.slot].epoch == entry.epoch; }
  Entry entry_of(Slot slot) const { return {slot, sequences_[slot].epoch}; }

  SglangConfig config_;
  RadixCache cache_;
  NewTokenRatio ratio_;
  // Pipeline stages: a micro-batch's own running batch and last batch. Those of the one that the loop is at
  // stand in the members below, and those of the others here.
  struct MicroBatch {
    std::vector<Slot> speakers;
    std::vector<Entry> last_batch, fresh;
    std::int32_t running_count = 0;
    bool batch_is_full = false, running_shrank = false, had_chunk = false, mixed = false;
  };
  MicroBatchRing ring_;
  std::vector<MicroBatch> micro_;
  std::size_t current_ = 0;
  std::vector<Sequence> sequences_;
  SlotPool slots_;
  std::deque<Slot> waiting_;
  std::int32_t live_ = 0;          // requests in any state
  std::int64_t rows_held_ = 0;     // request rows taken
  std::uint64_t next_serial_ = 0;  // names private content
  std::int64_t next_queued_ = 0;
  Slot chunked_ = no_slot;
  std::vector<Entry> last_batch_;      // prompts that ended in the last step, if it was a prefill
  bool last_batch_had_chunk_ = false;  // and a prompt that goes on
  bool last_batch_mixed_ = false;      // and the running batch
  std::int32_t running_count_ = 0;
  bool batch_is_full_ = false;
  bool running_shrank_ = false;  // since the last pass
  std::int32_t dead_rows_ = 0;   // 0.5.17: ended, and in the running batch until it is filtered
  bool emptied_ = false;         // 0.5.17: this pass did no more than filter the last of them
  bool out_of_memory_ = false;   // the engine would have stopped with an error
  DecodeSet decodes_;
  std::array<OutputReserve, 2> reserves_;  // by ignore_eos
  std::array<std::int32_t, 2> ending_running_{};
  std::vector<Slot> speakers_;  // speculation: the running batch in its order
  std::vector<Slot> ending_;    // last token in flight
  DecodeEnds ends_;             // steps: decode steps
  DecodeEnds slides_;           // decode steps before which windows are to be looked at
  std::vector<Entry> fresh_;    // merged since the last decode step: their next gap is their own
  std::int64_t next_order_ = 0, front_order_ = 0, decodes_launched_ = 0;
  std::int64_t next_step_ = 0, updated_steps_ = 0;
  bool deferred_ = false;              // the last pass did not try to prefill
  std::int64_t interval_left_ = 0;     // §2.8 prefill_decode_interval
  std::uint64_t refresh_calls_ = 0;    // §2.2
  std::uint64_t shuffles_ = 0;         // policy random
  std::int64_t prefilled_tokens_ = 0;  // processed_tokens_counter
  PrefillDelayer delayer_;
  std::deque<std::int64_t> recent_batches_;  // sizes of the latest attempts
  std::int64_t largest_batch_ = 0;           // of them (max_prefill_bs)
  bool answer_ = true, put_off_ = false;     // the delayer's; and it kept the last pass from prompts
  bool opened_ = false;                      // a pass of negotiating ranks is under way
  Adder polled_;
  SimTime now_;
  std::deque<Launched> open_;  // launched, result not processed

  StepPlan plan_;
  Launched launching_;
  std::vector<PrefillWork> chunks_;
  std::vector<VerifyWork> verify_;
  std::int64_t plan_drafts_ = 0;
  std::unique_ptr<EncodeOnTouch> encoder_;  // null: a text-only model
  struct OpenBackup {
    std::uint64_t id;
    std::vector<RadixCache::Backup> backups;
  };
  std::vector<OpenBackup> open_backups_;
  std::vector<TransferWork> issued_, taken_;
  std::vector<HostLoad> host_loads_;
  std::uint64_t next_transfer_ = 0;
  std::int64_t plan_loads_ = 0, plan_blocking_ = 0;  // pages
  OffloadCounters host_;
  Digest transfer_digest_;  // apart: a stretch reports its steps after what ended inside it
  std::vector<SequenceId> preempted_, preempted_for_, aborted_;
  std::vector<Slot> turned_away_;  // from a full queue; their slots are kept until the plan says so
  struct Displaced {
    Slot slot, by;
  };
  struct Remote {
    std::deque<Slot> queue;      // prefill: bootstrap queue; decode: prealloc queue
    std::deque<Slot> retracted;  // decode: KV in host memory
    std::deque<Slot> received;   // decode: `waiting_queue`
    struct Ended {
      Slot slot;
      bool failed;
    };
    std::vector<Ended> ended;  // transfers that no pass has noticed yet
    bool rooms = false;        // somebody in the queue has been told of room
    LargestMember lengths;     // decode: of the running batch
    std::int32_t held = 0, receiving = 0;
    std::vector<PullWork> pulls, pulled;
    std::vector<SendWork> sends, sent;
    std::vector<HandedWork> handed;
    std::vector<PrefillWork> joined;            // since the last step that was launched
    std::int64_t onboarded = 0, offloaded = 0;  // pages
  } remote_;
  std::vector<PrefillWork> launched_joined_;
  std::vector<Displaced> displaced_;  // preempted in this attempt, to be queued behind it
  std::vector<Admission> admissions_;
  std::int32_t plan_decodes_ = 0;
  std::int64_t plan_context_ = 0, plan_prefill_tokens_ = 0;
  std::vector<std::pair<std::int64_t, Slot>> done_;
  std::vector<SequenceId> leaving_;     // aborted, to end with their next token
  std::vector<SequenceId> saying_eos_;  // and those that end in the update under way by themselves
  UpdateEffects effects_;
  SchedulerCounters counters_;
  Digest digest_;
};

}  // namespace orrery
