// The loop: what one pass does, in the engine's order (§1.4, `Scheduler.get_next_batch_to_run`).
#include "sim/schedulers/sglang.h"

#include <algorithm>
#include <utility>

namespace orrery {

SglangScheduler::SglangScheduler(const SglangConfig& config)
    : config_(config), cache_(config.cache),
      ratio_(config.init_new_token_ratio, config.schedule_conservativeness, config.min_new_token_ratio_factor,
             config.new_token_ratio_decay_steps),
      ring_(static_cast<std::size_t>(config.micro_batches)), micro_(ring_.size()),
      decodes_(config.cache.page_size), reserves_{OutputReserve(config.clip_max_new_tokens),
                                                  OutputReserve(config.clip_max_new_tokens)} {
  counters_.min_free_blocks = config.cache.tokens / config.cache.page_size;
  counters_.speculation.depth = config.speculation.depth;
  if (config.encoder.compute_budget > 0)
    encoder_ = std::make_unique<EncodeOnTouch>(config.encoder.cache_size, false);
}

// ---------------------------------------------------------------------------------------------------- queue

// §1.5: refusals and limits (`TokenizerManager._validate_one_request`, `init_req_max_new_tokens`).
SequenceId SglangScheduler::add(const Request& request) {
  const std::int64_t prompt = request.prompt_tokens;
  const std::int64_t longest = std::min(config_.context_length, config_.cache.tokens) - 1;
  if (prompt >= longest - 5) return SequenceId::none();
  const std::int64_t counted = prompt + config_.speculation.context;
  if (counted >= config_.context_length && config_.speculation.context > 0) return SequenceId::none();
  if (counted + request.max_output_tokens > config_.context_length) return SequenceId::none();
  const std::int64_t priority = rank_of(request.priority);
  if (queue_is_full()) {
    // `_abort_on_queued_limit`: 503 for the newcomer, or for the worst that waits if that is worse.
    if (!config_.enable_priority_scheduling) return SequenceId::none();
    const Slot worst = worst_waiting();
    if (priority >= sequences_[worst].priority) return SequenceId::none();
    std::erase(waiting_, worst);
    turned_away_.push_back(worst);
  }
  const Slot slot = slots_.take(sequences_);
  Sequence& s = sequences_[slot];
  const std::uint32_t epoch = s.epoch + 1;
  s = Sequence{};
  s.epoch = epoch;
  s.request = request.id;
  if (encoder_ != nullptr) encoder_->open(slot, request);
  s.prompt = request.prompt_tokens;
  s.ignore_eos = request.ignore_eos;
  s.priority = priority;
  s.routing_key = request.stream;
  const std::int64_t room = std::min(
      longest - prompt - 1, config_.cache.tokens - cache_.page_ceil(prompt) - config_.cache.page_size - 1);
  s.max_output = static_cast<std::int32_t>(
      std::max<std::int64_t>(1, std::min<std::int64_t>(request.max_output_tokens, room)));
  const TokenRuns content =
      name_tokens(request.hash_ids, request.hash_block_size, request.stream, prompt, ++next_serial_);
  s.content = config_.pairs_of_tokens() ? name_pairs(content) : content;
  ++live_;
  if (config_.role == SglangRole::whole) {
    enqueue(slot);
  } else {
    if (config_.role == SglangRole::prefill) s.max_output = 1;
    s.state = State::apart;
    remote_.queue.push_back(slot);
  }
  return SequenceId(slot);
}

void SglangScheduler::on_idle() {
  ratio_.reset();
  dead_rows_ = 0;
  if (config_.negotiates) interval_left_ = 0;  // passes of nobody are over at once
  // A copy to host memory may still lock what it reads.
  ORRERY_CHECK(cache_.windowed_held() == 0 && (cache_.windowed_protected() == 0 || !open_backups_.empty()),
               "without requests nobody holds slots of windowed layers");
  ORRERY_CHECK(cache_.held_states() == 0 && (cache_.locked_states() == 0 || !open_backups_.empty()),
               "without requests nobody holds states");
}

SchedulerView SglangScheduler::view() const {
  const std::int64_t page = config_.cache.page_size;
  return {.running = live_ - static_cast<std::int32_t>(waiting_count() + turned_away_.size()),
          .waiting = static_cast<std::int32_t>(waiting_count()),
          .free_blocks = free_tokens() / page,
          .usable_blocks = config_.cache.tokens / page};
}

KvUsage SglangScheduler::kv_usage() const {
  const std::int64_t page = config_.cache.page_size;
  return {.total_blocks = config_.cache.tokens / page,
          .usable_blocks = config_.cache.tokens / page,
          .allocated = cache_.allocated_in_total() / page};
}

// ----------------------------------------------------------------------------------------------------- pass

const StepPlan& SglangScheduler::schedule() {
  if (!opened_) begin_plan();
  if (out_of_memory_) return plan_;
  if (config_.staged()) return go_round();
  Kind kind = run_pass();
  // A pass without a batch is over at once: with no result to wait for, the next one follows.
  for (bool again = !aborted_.empty(); kind == Kind::none && open_.empty() && live_ > 0 && !out_of_memory_;) {
    if ((!deferred_ || config_.negotiates) && !again && !emptied_) break;
    again = false;
    kind = run_pass();
  }
  return finish_plan(kind);
}

void SglangScheduler::begin_plan() {
  chunks_.clear();
  verify_.clear();
  host_loads_.clear();
  plan_drafts_ = 0;
  preempted_.clear();
  preempted_for_.clear();
  aborted_.clear();
  admissions_.clear();
  remote_.handed.clear();
  plan_ = StepPlan{};
  plan_decodes_ = 0;
  plan_context_ = plan_prefill_tokens_ = 0;
}

SglangScheduler::Kind SglangScheduler::run_pass() {
  if (config_.role == SglangRole::decode) return run_decode_pass();
  if (!opened_) begin_pass();
  if (config_.role == SglangRole::prefill) return prefill();
  Kind kind = Kind::none;
  if (!deferred_) kind = prefill();
  opened_ = false;
  if (kind == Kind::none && batch_rows() > 0 && !out_of_memory_) kind = decode();
  if (kind == Kind::extend || kind == Kind::mixed) interval_left_ = config_.prefill_decode_interval;
  return kind;
}

// §1.4 up to the attempt to prefill.
void SglangScheduler::begin_pass() {
  flush_backups();
  if (config_.role == SglangRole::prefill) return begin_prefill_pass();
  stash_chunk();
  if (last_batch_mixed_) dead_rows_ = 0;
  emptied_ = false;
  merge_last_batch();
  if (running_shrank_) batch_is_full_ = false;
  running_shrank_ = false;
  if (!config_.rules_of_0_5_17) retire_ended(decodes_launched_);
  defer_prefill();
}

// §1.4 step 2: a chunk that is not the last goes into the tree now, although the device may still compute it.
void SglangScheduler::stash_chunk() {
  if (chunked_ == no_slot) return;
  Sequence& s = sequences_[chunked_];
  if (s.extend_end <= s.prefix) return;
  checkpoint(chunked_, s.extend_end, false);
  s.prefix = s.extend_end;
}

// §1.4 step 3: prompts of the last step join the running batch, whether their first token is known or not.
void SglangScheduler::merge_last_batch() {
  if (last_batch_had_chunk_) batch_is_full_ = false;  // the batch without it is smaller
  last_batch_had_chunk_ = false;
  bool was_empty = batch_rows() == 0;
  if (last_batch_mixed_) batch_is_full_ = false;  // it is the running batch from now on
  last_batch_mixed_ = false;
  for (const Entry& entry : last_batch_) {
    if (!known(entry)) {
      batch_is_full_ = false;  // finished in the meantime
      continue;
    }
    if (was_empty) batch_is_full_ = false;  // the last batch becomes the running one, with a latch of its own
    was_empty = false;
    merge(entry.slot);
  }
  last_batch_.clear();
}

void SglangScheduler::merge(Slot slot) {
  Sequence& s = sequences_[slot];
  s.running = true;
  ++running_count_;
  if (config_.role == SglangRole::decode) remote_.lengths.add(longest_of(s));
  if (config_.walking()) return start_speaking(slot);
  const std::int64_t left = s.max_output - (s.outputs + 1);
  if (left <= 0 && !config_.rules_of_0_5_17) {
    s.state = State::ending;
    ending_.push_back(slot);
    ++ending_running_[s.ignore_eos ? 1 : 0];
    return;
  }
  s.state = State::decoding;
  s.base = s.input() - decodes_launched_;
  s.last_decode = decodes_launched_ + left - 1;
  decodes_.add(s.base);
  reserves_[s.ignore_eos ? 1 : 0].add(s.last_decode);
  ends_.push({.step = s.last_decode, .order = s.order, .slot = slot, .epoch = s.epoch});
  fresh_.push_back(entry_of(slot));
  if (cache_.windowed()) plan_slide(slot);
}

// Members whose last token was scheduled leave the decode set; they run on, in name, until a decode step
// leaves them out (§1.2 "length finish") or their result is processed.
void SglangScheduler::retire_ended(std::int64_t before_decode) {
  const auto stale = [&](const DecodeEnds::End& end) {
    return !known({end.slot, end.epoch}) || sequences_[end.slot].state != State::decoding;
  };
  while (const auto end = ends_.take_before(before_decode, stale)) {
    leave_decode_set(end->slot);
    Sequence& s = sequences_[end->slot];
    s.state = State::ending;
    ending_.push_back(end->slot);
    ++ending_running_[s.ignore_eos ? 1 : 0];
  }
}

// §2.8: after a prefill the next N passes decode only.
bool SglangScheduler::defer_prefill() {
  deferred_ = false;
  if (interval_left_ == 0) return false;
  if (running_count_ < config_.prefill_decode_interval_min_bs) {
    interval_left_ = 0;
    return false;
  }
  --interval_left_;
  return deferred_ = true;
}

std::int32_t SglangScheduler::known_outputs(const Sequence& s) const {
  if (config_.walking()) return s.speech.outputs;
  if (s.state == State::ending) return s.max_output - 1;
  // A token that came from the prefill side is known when its request joins.
  const std::int32_t least = config_.role == SglangRole::decode ? s.outputs + 1 : 0;
  const bool in_flight = decode_in_flight() || (!open_.empty() && s.prefill_step == next_step_ - 1);
  return std::max(least, s.max_output - static_cast<std::int32_t>(s.last_decode - decodes_launched_ + 1) -
                             (in_flight ? 1 : 0));
}

// ---------------------------------------------------------------------------------------------------- the
// plan

// What the engine would encode for the chunks just composed.
void SglangScheduler::encode_images() {
  encoder_->begin_step();
  for (const PrefillWork& chunk : chunks_)
    encoder_->touch(chunk.sequence.value(), chunk.context, chunk.new_tokens);
  plan_.encode = encoder_->encoded();
  for (const EncodeWork& image : plan_.encode) {
    digest_.add(image.request.value() * 4);
    digest_.add(std::int64_t{image.embeddings});
  }
}

const StepPlan& SglangScheduler::finish_plan(Kind kind) {
  if (!turned_away_.empty()) {
    plan_.turned_away = turned_away_.size();
    std::vector<SequenceId> gone;
    for (const Slot slot : turned_away_) {
      gone.push_back(SequenceId(slot));
      digest_.add(sequences_[slot].request.value() * 4 + 1);
      drop_slot(slot);
    }
    turned_away_.clear();
    aborted_.insert(aborted_.begin(), gone.begin(), gone.end());
  }
  const std::int64_t free = free_tokens() / config_.cache.page_size;
  counters_.min_free_blocks = std::min(counters_.min_free_blocks, free);
  plan_.prefill = chunks_;
  if (encoder_ != nullptr) encode_images();
  plan_.preempted = preempted_;
  plan_.preempted_for = preempted_for_;
  plan_.preemption_drops_token = true;
  plan_.aborted = aborted_;
  plan_.decode_sequences = plan_decodes_;
  plan_.decoding = this;
  plan_.decode_context_tokens = plan_context_;
  plan_.prefill_tokens = plan_prefill_tokens_;
  plan_.new_requests = static_cast<std::int32_t>(admissions_.size());
  plan_.waiting = static_cast<std::int32_t>(waiting_count());
  plan_.handed = remote_.handed;
  plan_.running = live_ - plan_.waiting;
  plan_.free_blocks = free;
  for (const SequenceId id : preempted_) digest_.add(sequences_[id.value()].request.value() * 4 + 1);
  digest_.add(static_cast<std::uint64_t>(aborted_.size()));
  if (kind == Kind::none) {
    if (open_.empty()) flush_backups();  // the next pass would, at once
    return plan_;
  }

  if (config_.role == SglangRole::decode) {
    launched_joined_.swap(remote_.joined);
    remote_.joined.clear();
    plan_.joined = launched_joined_;
    plan_.onboarded_blocks = std::exchange(remote_.onboarded, 0);
    plan_.offloaded_blocks = std::exchange(remote_.offloaded, 0);
  }
  plan_.stalls_decodes = kind == Kind::extend;
  if (cache_.tiered()) plan_host_work();
  if (config_.walking()) {
    plan_.verify = verify_;
    plan_.draft_tokens = plan_drafts_;
    digest_.add(plan_drafts_);
  }
  plan_.decode_irregular = static_cast<std::int32_t>(launching_.irregular.size());
  for (const PrefillWork& chunk : chunks_) {
    digest_.add(chunk.request.value() * 4 + 2);
    digest_.add((static_cast<std::uint64_t>(chunk.new_tokens) << 32) ^
                static_cast<std::uint64_t>(chunk.context));
  }
  digest_plan(plan_decodes_, plan_context_, free);
  open_.push_back(std::move(launching_));
  launching_ = Launched{};
  plan_.repeat = stretch_limit(kind);
  ++next_step_;
  return plan_;
}

void SglangScheduler::digest_plan(std::int64_t decodes, std::int64_t context, std::int64_t free) {
  digest_.add((decodes << 48) ^ (context << 20) ^ free);
}

// How many decode steps like the one just composed may follow each other without a decision: no attempt to
// prefill, the same members, room for all of them, and no result among the updates inside that says more than
// "one token each".
std::int64_t SglangScheduler::stretch_limit(Kind kind) const {
  constexpr std::int64_t longest = 256;
  const bool copies = !open_backups_.empty() || (cache_.tiered() && config_.cache.backup_at_hits == 0);
  if (!config_.stretches || config_.walking() || cache_.windowed() || copies || kind != Kind::decode ||
      chunked_ != no_slot || interval_left_ > 0)
    return 1;
  if (!preempted_.empty() || !aborted_.empty() || !ending_.empty()) return 1;
  if (!waiting_.empty() && (!batch_is_full_ || config_.preempts())) return 1;
  // Room for who waits may come with tokens that the running ones are given.
  if (waiting_count() > waiting_.size() || !remote_.ended.empty()) return 1;
  if (static_cast<int>(open_.size()) != (config_.overlap ? 2 : 1)) return 1;
  for (const Launched& open : open_) {
    if (!open.decodes || !open.prefilled.empty() || !open.irregular.empty()) return 1;
  }
  // Heap entries may be stale; a stale top only shortens the stretch.
  const std::int64_t until_end = ends_.earliest() - (decodes_launched_ - 1) + 1;
  const std::int64_t limit = std::min(longest, until_end);
  if (limit <= 1) return 1;
  return 1 + decodes_.steps_within(decodes_launched_, free_tokens() / config_.cache.page_size, limit - 1);
}

}  // namespace orrery
