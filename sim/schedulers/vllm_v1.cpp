#include "sim/schedulers/vllm_v1.h"

#include <algorithm>
#include <utility>

#include "workloads/priority.h"

namespace orrery {

namespace {

KvBlockManager::Config kv_config(const SchedulerConfig& c) {
  return {.num_blocks = c.num_gpu_blocks,
          .block_size = c.block_size,
          .prefix_caching = c.enable_prefix_caching,
          .full_groups = c.kv_groups.full,
          .window_groups = c.kv_groups.windowed,
          .window = c.kv_groups.window,
          .cached_states = c.kv_groups.cached_states,
          .chunk_ends = c.kv_groups.chunk_ends,
          .drops_last = c.speculation.drops_last_hit,
          .state_groups = c.kv_groups.states * c.kv_groups.blocks_of_state};
}

// A state that can be found again is what a window of two tokens keeps (sim/kv_states.cpp). A draft's has a
// block that stays with its sequence (`num_speculative_blocks`).
SchedulerConfig with_states(SchedulerConfig c) {
  if (!c.kv_groups.cached_states) return c;
  c.kv_groups.windowed = c.kv_groups.states;
  c.kv_groups.window = 2;
  c.kv_groups.blocks_of_state = c.speculation.tokens;
  if (c.speculation.tokens == 0) c.kv_groups.states = 0;
  return c;
}

}  // namespace

VllmV1Scheduler::VllmV1Scheduler(const SchedulerConfig& config)
    : config_(with_states(config)), kv_(kv_config(config_)), decodes_(config.block_size) {
  counters_.min_free_blocks = kv_.usable_blocks();
  if (config.offload.blocks > 0)
    offload_ = std::make_unique<VllmOffload>(config.offload, config.block_size,
                                             VllmOffload::Groups{.full = config_.kv_groups.full,
                                                                 .windowed = config_.kv_groups.windowed,
                                                                 .window = config_.kv_groups.window,
                                                                 .drafts = config.speculation.drops_last_hit,
                                                                 .chunk_ends = config_.kv_groups.chunk_ends});
  const std::int64_t shift = config.speculation.drops_last_hit ? 1 : 0;
  if (config.encoder.compute_budget > 0) encoder_ = std::make_unique<VllmEncoder>(config.encoder, shift);
  if (config_.kv_groups.windowed > 0)
    windows_ = std::make_unique<WindowSlides>(config_.kv_groups.window, config.block_size, kv_);
}

// ---------------------------------------------------------------------------------------------------- queue

SequenceId VllmV1Scheduler::add(const Request& request) {
  if (request.prompt_tokens >= config_.max_model_len) return SequenceId::none();
  const Slot slot = slots_.take(sequences_);
  Sequence& s = sequences_[slot];
  const std::uint32_t epoch = s.epoch + 1;
  s = Sequence{};
  s.epoch = epoch;
  s.request = request.id;
  s.priority = request.priority == no_priority ? 0 : request.priority;
  s.arrival = request.arrival;
  s.leg = request.leg;
  s.prompt = request.prompt_tokens;
  const std::int64_t room = config_.max_model_len - request.prompt_tokens;
  const bool one_token = s.leg == RequestLeg::prefill || s.leg == RequestLeg::encode;
  const std::int64_t wanted = one_token ? 1 : request.max_output_tokens;
  s.max_output = static_cast<std::int32_t>(std::min(wanted, room));
  s.named = config_.enable_prefix_caching && (!request.hash_ids.empty() || request.stream != 0);
  s.kv = kv_.open({.hash_ids = request.hash_ids,
                   .hash_block_size = request.hash_block_size,
                   .stream = request.stream,
                   .named_tokens = request.prompt_tokens});
  if (encoder_ != nullptr) encoder_->open(slot, request);
  if (offload_ != nullptr) offload_->open(slot, request);
  enqueue(slot, false);
  return SequenceId(slot);
}

void VllmV1Scheduler::drop_slot(Slot slot) {
  Sequence& s = sequences_[slot];
  kv_.close(s.kv);
  if (encoder_ != nullptr) encoder_->close(slot);
  if (offload_ != nullptr) offload_->close(slot);
  ++s.epoch;
  s.request = RequestId::none();
  slots_.give_back(slot);
}

void VllmV1Scheduler::link_running(Slot slot) {
  sequences_[slot].order = ++next_order_;
  link_slot(sequences_, slot, no_slot, running_head_, running_tail_);
  ++running_count_;
}

void VllmV1Scheduler::unlink_running(Slot slot) {
  unlink_slot(sequences_, slot, no_slot, running_head_, running_tail_);
  --running_count_;
}

SchedulerView VllmV1Scheduler::view() const {
  return {.running = running_count_,
          .waiting = static_cast<std::int32_t>(waiting_.size() + skipped_.size()),
          .free_blocks = kv_.free_blocks(),
          .usable_blocks = kv_.usable_blocks()};
}

// ------------------------------------------------------------------------------------------------- schedule

const StepPlan& VllmV1Scheduler::schedule() {
  begin_plan();
  if (!remote_.ended.empty()) notice_remote_ends();
  if (windows_) head_blocked_ = false;  // windows free blocks as they slide
  retire_ended(next_step_);
  rejoin_paused();
  const auto prompts = static_cast<std::int32_t>(prefilling_.size());
  deferring_ = throttled_ && !capacity_bound_ && running_count_ > prompts;
  std::int64_t budget = config_.max_num_batched_tokens;
  if (walks()) {
    schedule_running_speculating(budget);
  } else if (!schedule_running_at_once(budget)) {
    schedule_running_in_order(budget);
  }
  // §1.2 rule 3: nobody is admitted in a step that preempted somebody.
  if (preempted_.empty()) {
    admit_waiting(budget);
    if (!deferring_) capacity_bound_ = !waiting_.empty();
  }
  return finish_plan();
}

void VllmV1Scheduler::begin_plan() {
  chunks_.clear();
  verify_.clear();
  preempted_.clear();
  preempted_for_.clear();
  paused_now_.clear();
  aborted_.clear();
  irregular_now_.clear();
  admissions_.clear();
  host_loads_.clear();
  if (encoder_ != nullptr) encoder_->begin_step();
  if (config_.kv_groups.cached_states) kv_.begin_step();
  plan_ = StepPlan{};
  plan_decodes_ = 0;
  plan_decode_context_ = 0;
  plan_prefill_tokens_ = 0;
}

// §1.2 rule 2, first skip: a sequence whose last token is certainly in flight is not scheduled again. It
// stays in `running` with its blocks until the update that brings the token (§1.5 finish lag).
void VllmV1Scheduler::retire_ended(std::int64_t before_step) {
  const auto stale = [&](const DecodeEnds::End& end) {
    const Sequence& s = sequences_[end.slot];
    return s.epoch != end.epoch || s.state != State::decoding || s.last_step != end.step;
  };
  while (const auto end = ends_.take_before(before_step, stale)) {
    Sequence& ended = sequences_[end->slot];
    leave_decode_set(end->slot, ended.last_step);
    ended.computed = ended.base + ended.last_step + 1;
    ended.outputs = ended.max_output;
    ended.left_decode = ended.last_step + 1;
    ended.state = State::last_token;
    last_token_.push_back(end->slot);
  }
}

void VllmV1Scheduler::enter_decode_set(Slot slot, std::int64_t first_step, std::int64_t context) {
  Sequence& s = sequences_[slot];
  s.state = State::decoding;
  s.base = context - first_step;
  s.first_decode = first_step;
  s.last_step = first_step + (s.max_output - s.outputs) - 1;
  decodes_.add(s.base);
  highest_decode_order_ = std::max(highest_decode_order_, s.order);
  ends_.push(
      {.step = s.last_step, .order = static_cast<std::int64_t>(s.order), .slot = slot, .epoch = s.epoch});
  if (windows_) windows_->start(slot, s.kv, s.order, s.base, first_step);
}

void VllmV1Scheduler::leave_decode_set(Slot slot, std::int64_t last_step) {
  decodes_.remove(sequences_[slot].base);
  if (windows_) windows_->stop(slot, last_step);
}

void VllmV1Scheduler::rejoin_paused() {
  for (const Slot slot : paused_) {
    if (sequences_[slot].state != State::paused) continue;
    irregular_now_.push_back(SequenceId(slot));
    enter_decode_set(slot, next_step_, sequences_[slot].computed);
  }
  paused_.clear();
}

std::int64_t VllmV1Scheduler::chunk_size(const Sequence& s, std::int64_t budget) const {
  if (deferring_ && s.state == State::prefilling) return 0;
  std::int64_t n = s.target - s.computed;
  const std::int64_t threshold = config_.long_prefill_token_threshold;
  if (threshold > 0) n = std::min(n, threshold);
  return std::min(n, budget);
}

// The common case: budget and blocks suffice for everybody, so the order of the running list decides nothing.
// Changes nothing and returns false when they might not.
bool VllmV1Scheduler::schedule_running_at_once(std::int64_t& budget) {
  const std::int64_t decodes = decodes_.size();
  if (decodes > budget) return false;
  std::int64_t left = budget - decodes, need = in_all_groups(decodes_.new_blocks(next_step_));
  bool cut_short = false;
  for (const Slot slot : prefilling_) {
    const Sequence& s = sequences_[slot];
    if (encoder_ != nullptr && encoder_->has_images_behind(slot, s.computed)) return false;
    const std::int64_t n = at_block_ends(s, chunk_size(s, left));
    cut_short |= n < at_block_ends(s, chunk_size(s, config_.max_num_batched_tokens));
    left -= n;
    need += chunk_blocks(blocks_for(s.computed + n) - blocks_for(s.computed));
  }
  // A prefill that was cut short must really stand behind the decodes that were served first.
  if (cut_short && decodes > 0 && sequences_[prefilling_.front()].order < highest_decode_order_) return false;
  if (need > kv_.free_blocks()) return false;

  budget -= decodes;
  plan_decodes_ = static_cast<std::int32_t>(decodes);
  plan_decode_context_ = decodes_.context_sum(next_step_);
  if (windows_) windows_->whole_step(next_step_);
  kv_.grow_unattributed(decodes_.new_blocks(next_step_));
  for (const Slot slot : prefilling_) {
    const Sequence& s = sequences_[slot];
    const std::int64_t n = at_block_ends(s, chunk_size(s, budget));
    if (n == 0) continue;
    if (windows_) windows_->before_chunk(slot, s.kv, s.computed);
    kv_.grow(s.kv, blocks_for(s.computed + n) - blocks_for(s.computed));
    add_chunk(slot, n);
    budget -= n;
  }
  return true;
}

// §1.2 rule 2: the running list in order; a failed allocation preempts from the tail until it fits or the
// victim was the sequence itself, which ends the loop.
void VllmV1Scheduler::schedule_running_in_order(std::int64_t& budget) {
  Slot slot = running_head_;
  while (slot != no_slot && budget > 0) {
    const Sequence& s = sequences_[slot];
    if (s.state == State::decoding) {
      const std::int64_t context = s.base + next_step_;
      const std::int64_t blocks = context % config_.block_size == 0 ? 1 : 0;
      if (windows_) windows_->member_step(slot, next_step_);
      if (!make_room(slot, in_all_groups(blocks), budget)) return leave_out_behind(slot);
      kv_.grow_unattributed(blocks);
      ++plan_decodes_;
      plan_decode_context_ += context;
      --budget;
    } else if (s.state == State::prefilling) {
      const std::int64_t n = at_block_ends(s, with_images(slot, chunk_size(s, budget)));
      const std::int64_t blocks = blocks_for(s.computed + n) - blocks_for(s.computed);
      if (n > 0) {
        if (windows_) windows_->before_chunk(slot, s.kv, s.computed);
        if (!make_room(slot, chunk_blocks(blocks), budget)) return leave_out_behind(slot);
        if (encoder_ != nullptr) encoder_->commit(slot);
        kv_.grow(s.kv, blocks);
        add_chunk(slot, n);
        budget -= n;
      }
    }
    slot = sequences_[slot].next;
  }
  for (; slot != no_slot; slot = sequences_[slot].next) {
    if (sequences_[slot].state == State::decoding) pause(slot);
  }
}

std::int64_t VllmV1Scheduler::context_of(const Sequence& s) const {
  return s.state == State::decoding ? s.base + next_step_ : s.computed;
}

// §1.3. All blocks go at once; those known to be full keep their hash, so a resumed sequence finds what
// survives. A token in flight is delivered while it waits, and its block is not registered for it.
void VllmV1Scheduler::preempt(Slot slot, bool given_slots) {
  if (walks()) return preempt_speaking(slot);
  Sequence& s = sequences_[slot];
  const std::int64_t computed = context_of(s);
  std::int64_t hashed_tokens = computed;
  bool in_flight = false;
  if (s.state == State::decoding) {
    leave_decode_set(slot, given_slots ? next_step_ : next_step_ - 1);
    s.outputs = s.max_output - static_cast<std::int32_t>(s.last_step - next_step_ + 1);
    s.left_decode = next_step_;
    in_flight = next_step_ > updated_steps_;
  } else if (s.state == State::prefilling) {
    prefilling_.erase(std::find(prefilling_.begin(), prefilling_.end(), slot));
  } else if (s.state == State::last_token) {
    in_flight = true;  // stays in last_token_: the next update finishes it from the queue
  }
  if (in_flight) hashed_tokens = std::max(s.target, computed - 1);
  s.in_flight_when_preempted = s.state == State::last_token;
  release_blocks(slot, blocks_for(computed) + (s.grown_this_step ? 1 : 0),
                 hashed_tokens / config_.block_size);
  s.grown_this_step = false;
  requeue(slot);
}

void VllmV1Scheduler::release_blocks(Slot slot, std::int64_t total, std::int64_t hashed) {
  kv_.release(sequences_[slot].kv, total, hashed, windows_ ? windows_->begin(slot) : 0);
}

void VllmV1Scheduler::pause(Slot slot) {
  Sequence& s = sequences_[slot];
  leave_decode_set(slot, next_step_ - 1);
  s.computed = s.base + next_step_;
  s.left_decode = next_step_;
  s.outputs = s.max_output - static_cast<std::int32_t>(s.last_step - next_step_ + 1);
  s.state = State::paused;
  ++s.epoch;
  paused_.push_back(slot);
  paused_now_.push_back(SequenceId(slot));
}

void VllmV1Scheduler::admit_waiting(std::int64_t& budget) {
  if (offload_ != nullptr || config_.pulls_kv) return admit_around_transfers(budget);
  while (!waiting_.empty() && budget > 0 && running_count_ < config_.max_num_seqs) {
    if (head_blocked_) return;
    // A preempted sequence whose last token is still in flight ends at the next update; the engine would try
    // to admit it only if no update came between, which two steps in flight never allow.
    const Sequence& head = sequences_[waiting_.front()];
    if (head.in_flight_when_preempted || (staged() && head.speech.in_flight > 0)) return;
    if (try_admit(waiting_.front(), budget) != Admit::admitted) return;
    waiting_.pop_front();
  }
}

// §1.2 rule 3 and §2.4: prefix look-up, chunk, then two gates: the whole sequence must fit, then the chunk.
VllmV1Scheduler::Admit VllmV1Scheduler::try_admit(Slot slot, std::int64_t& budget) {
  Sequence& s = sequences_[slot];
  s.target = s.prompt + s.outputs;
  KvBlockManager::Hit hit;
  const bool loaded = s.state == State::loading;
  const std::int64_t had = loaded ? s.computed : 0;  // tokens that it has blocks for
  if (loaded) {
    if (still_loading(slot)) return Admit::set_aside;
    s.computed = std::min(s.computed, s.target - 1);  // one token has to run
  } else {
    const bool shares = config_.enable_prefix_caching && (s.named || s.admitted);
    if (shares) hit = kv_.lookup(s.kv, s.target);
    if (config_.speculation.drops_last_hit) hit = drop_last(s, hit);
    std::optional<std::int64_t> on_host = 0;
    if (shares && offload_ != nullptr) on_host = offload_->match(slot, hit.blocks, s.target);
    if (!on_host) return Admit::set_aside;
    // MultiConnector asks every connector, and NIXL, named first, has the whole prompt.
    if (s.leg == RequestLeg::decode) return begin_pull(slot, hit);
    if (*on_host > 0) return begin_load(slot, hit, *on_host);
    s.computed = hit.blocks * config_.block_size;
  }
  const std::int64_t held = blocks_for(had);
  const auto blocked = [&] {
    s.computed = had;
    return Admit::blocked;
  };
  if (deferring_ && !loaded) return blocked();
  if (!config_.enable_chunked_prefill && s.target - s.computed > budget) return blocked();
  const std::int64_t n = at_block_ends(s, with_images(slot, chunk_size(s, budget)),
                                       (hit.attended - hit.blocks) * config_.block_size);
  if (n == 0) return blocked();
  const std::int64_t reserve = watermark_blocks();
  const std::int64_t blocks = blocks_for(with_lookahead(s.computed + n)) - hit.blocks - held;
  const std::int64_t around = hit.idle + reserve;
  const std::int64_t whole = config_.scheduler_reserve_full_isl
                                 ? gate_blocks(hit.blocks + held, std::min(s.target, config_.max_model_len))
                                 : 0;
  const std::int64_t chunk = chunk_blocks(blocks) + state_blocks();
  if (hit.fresh || std::max(whole, chunk) + around > kv_.free_blocks()) {
    const bool images = encoder_ != nullptr && encoder_->has_images(slot);
    if (images) encoder_->abandon(slot);
    // Where the whole-sequence gate did not decide, the answer depends on this step's budget, so it is asked
    // again; and asking moves the references to images, which decides what the encoder's cache drops.
    head_blocked_ = config_.scheduler_reserve_full_isl && !images && whole + around > kv_.free_blocks();
    return blocked();
  }
  if (encoder_ != nullptr) encoder_->commit(slot);
  if (hit.blocks > 0) kv_.take_prefix(s.kv, s.target, hit);
  if (windows_ && !loaded) windows_->admit(slot, s.computed);
  kv_.grow(s.kv, blocks);
  if (config_.kv_groups.states > 0) kv_.take_states(s.kv);
  s.speech.blocks = hit.blocks + held + blocks;
  link_running(slot);
  if (!loaded) {
    counters_.queried_tokens += static_cast<std::uint64_t>(s.target);
    counters_.hit_tokens += static_cast<std::uint64_t>(s.computed);
  }
  admissions_.push_back({.sequence = SequenceId(slot),
                         .request = s.request,
                         .cached_tokens = static_cast<std::int32_t>(s.computed),
                         .fetched_tokens = std::exchange(s.fetched, 0),
                         .resumed = s.admitted});
  s.admitted = true;
  s.first_decode = s.left_decode = 0;
  s.state = State::prefilling;
  prefilling_.push_back(slot);
  add_chunk(slot, n);
  budget -= n;
  return Admit::admitted;
}

// §2.3: blocks become visible at schedule time, so the next request in this very step can hit them.
void VllmV1Scheduler::add_chunk(Slot slot, std::int64_t tokens) {
  Sequence& s = sequences_[slot];
  chunks_.push_back({.sequence = SequenceId(slot),
                     .request = s.request,
                     .new_tokens = static_cast<std::int32_t>(tokens),
                     .context = s.computed,
                     .samples = s.computed + tokens == s.target,
                     .outputs_before = s.outputs});
  s.computed += tokens;
  plan_prefill_tokens_ += tokens;
  if (offload_ != nullptr) store_on_host(slot, s.computed, true);
  if (!s.named) return;
  kv_.publish(s.kv, s.computed / config_.block_size);
  head_blocked_ = false;  // the head of the queue may find more of its prefix now
}

void VllmV1Scheduler::start_sampling(Slot slot, OpenStep& open) {
  Sequence& s = sequences_[slot];
  open.sampled.push_back({.sequence = SequenceId(slot),
                          .request = s.request,
                          .update = 0,
                          .resumed = s.outputs > 0,
                          .apart = staged()});
  if (walks()) return start_speaking(slot);
  if (config_.sends_kv && s.leg == RequestLeg::prefill) send_prompt(slot);
  ++s.outputs;
  if (s.outputs < s.max_output) {
    enter_decode_set(slot, next_step_ + 1, s.target);
    return;
  }
  s.last_step = next_step_;
  s.first_decode = s.left_decode = next_step_ + 1;
  s.state = State::last_token;
  last_token_.push_back(slot);
}

const StepPlan& VllmV1Scheduler::finish_plan() {
  std::erase_if(irregular_now_,
                [&](SequenceId id) { return sequences_[id.value()].state != State::decoding; });
  const std::int64_t free = kv_.free_blocks();
  counters_.min_free_blocks = std::min(counters_.min_free_blocks, free);
  plan_.prefill = chunks_;
  if (encoder_ != nullptr) plan_.encode = encoder_->encoded();
  plan_.verify = verify_;
  for (const VerifyWork& work : verify_) plan_.draft_tokens += work.drafts;
  plan_.preempted = preempted_;
  plan_.preempted_for = preempted_for_;
  plan_.aborted = aborted_;
  plan_.paused = paused_now_;
  plan_.decode_sequences = plan_decodes_;
  plan_.decoding = this;
  plan_.decode_context_tokens = plan_decode_context_;
  plan_.decode_irregular = static_cast<std::int32_t>(irregular_now_.size());
  plan_.prefill_tokens = plan_prefill_tokens_;
  plan_.new_requests = static_cast<std::int32_t>(admissions_.size());
  plan_.running = running_count_;
  plan_.waiting = static_cast<std::int32_t>(waiting_.size() + skipped_.size());
  plan_.free_blocks = free;
  for (const SequenceId id : preempted_) digest_.add(sequences_[id.value()].request.value() * 4 + 1);
  if (plan_.tokens() == 0) return staged() ? finish_empty() : plan_;

  OpenStep open = open_.blank();
  open.regular_decodes = plan_decodes_ - plan_.decode_irregular;
  open.irregular = irregular_now_;
  for (const PrefillWork& chunk : chunks_) {
    digest_.add(chunk.request.value() * 4 + 2);
    digest_.add((static_cast<std::uint64_t>(chunk.new_tokens) << 32) ^
                static_cast<std::uint64_t>(chunk.context));
    if (encoder_ != nullptr && !(walks() && chunk.samples)) {  // else take_tokens() says what is known
      const Slot slot = chunk.sequence.value();
      encoder_->ran(slot, next_step_, chunk.samples, sequences_[slot].target);
    }
    if (chunk.samples) start_sampling(chunk.sequence.value(), open);
  }
  if (!chunks_.empty()) {
    std::erase_if(prefilling_, [&](Slot slot) { return sequences_[slot].state != State::prefilling; });
  }
  for (const EncodeWork& image : plan_.encode) {
    digest_.add(image.request.value() * 4);
    digest_.add(std::int64_t{image.embeddings});
  }
  digest_plan(plan_decodes_, plan_decode_context_, free);
  open_.push(std::move(open));
  plan_.repeat = stretch_limit();
  ++next_step_;
  return plan_;
}

}  // namespace orrery
