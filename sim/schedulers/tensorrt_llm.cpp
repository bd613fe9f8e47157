#include "sim/schedulers/tensorrt_llm.h"

#include <algorithm>
#include <cmath>

namespace orrery {

namespace {

TensorRtLlmKvPool::Config kv_config(const SchedulerConfig& c) {
  return {.num_blocks = c.num_gpu_blocks,
          .block_size = c.block_size,
          .block_reuse = c.enable_prefix_caching,
          .partial_reuse = c.tensorrt_llm.partial_reuse,
          .copy_on_partial_reuse = c.tensorrt_llm.copy_on_partial_reuse,
          .host_blocks = c.offload.blocks};
}

}  // namespace

TensorRtLlmScheduler::TensorRtLlmScheduler(const SchedulerConfig& config)
    : config_(config), rules_(config.tensorrt_llm),
      ring_(static_cast<std::size_t>(std::max(1, config.pipeline.micro_batches))), kv_(kv_config(config)),
      decodes_(config.block_size) {
  ORRERY_CHECK(!staged() || !rules_.max_utilization, "stages are modelled without pauses");
  counters_.min_free_blocks = kv_.num_blocks();
  read_batch_waiting();
  window_free_ = rules_.window_blocks;
  ORRERY_CHECK(!windowed() || !staged(), "windows are modelled without stages");
  if (windowed() && config.enable_prefix_caching) {
    TensorRtLlmKvPool::Config pool = kv_config(config);
    pool.num_blocks = rules_.window_blocks;
    pool.host_blocks = rules_.window_host_blocks;
    window_kv_.emplace(pool);
  }
  if (config.encoder.compute_budget > 0) encoder_ = std::make_unique<EncodeOnTouch>(0, true);
}

// batch_wait_timeout_ms, _iters and batch_wait_max_tokens_ratio (§1.4). The first is time, and the price's;
// here an idle engine that waits for a full batch takes in all that has come.
void TensorRtLlmScheduler::read_batch_waiting() {
  const NamedOptions& options = config_.options;
  fetches_all_ = options.has("batch_wait_timeout_ms") && options.number("batch_wait_timeout_ms") > 0;
  if (rules_.dealt_to || !options.has("batch_wait_timeout_iters") ||
      !options.has("batch_wait_max_tokens_ratio"))
    return;
  batch_wait_iters_ = options.integer("batch_wait_timeout_iters");
  batch_wait_tokens_ = static_cast<std::int64_t>(std::ceil(
      options.number("batch_wait_max_tokens_ratio") * static_cast<double>(config_.max_num_batched_tokens)));
}

// ---------------------------------------------------------------------------------------------------- queue

// A prompt that leaves no room for an output is refused, and so is, without chunking, one that no batch holds
// (§3.1: the API rejects it before the scheduler would fail on it). Outputs end at max_seq_len.
bool TensorRtLlmScheduler::refuses(const Request& request) const {
  return request.prompt_tokens >= config_.max_model_len ||
         (!config_.enable_chunked_prefill && request.prompt_tokens > config_.max_num_batched_tokens);
}

SequenceId TensorRtLlmScheduler::add(const Request& request) {
  if (refuses(request)) return SequenceId::none();
  const Slot slot = slots_.take(sequences_);
  Sequence& s = sequences_[slot];
  const std::uint32_t epoch = s.epoch + 1;
  const std::uint32_t stay = s.stay;
  s = Sequence{};
  s.epoch = epoch;
  s.stay = stay;
  s.request = request.id;
  if (encoder_ != nullptr) encoder_->open(slot, request);
  s.prompt = request.prompt_tokens;
  const std::int64_t room = config_.max_model_len - request.prompt_tokens;
  s.max_output = static_cast<std::int32_t>(std::min<std::int64_t>(request.max_output_tokens, room));
  s.target = s.prompt;
  s.leg = request.leg;
  if (s.leg == RequestLeg::prefill) s.max_output = 1;
  const KvContent content{.hash_ids = request.hash_ids,
                          .hash_block_size = request.hash_block_size,
                          .stream = request.stream,
                          .named_tokens = request.prompt_tokens};
  s.kv = kv_.open(content);
  if (window_kv_) s.window_kv = window_kv_->open(content);
  if (requests_ == remote_.held && !rules_.dealt_to && !fetches_all_) waits_in_get_ = true;
  ++requests_;
  queue_.push_back(slot);
  return SequenceId(slot);
}

void TensorRtLlmScheduler::drop_slot(Slot slot) {
  Sequence& s = sequences_[slot];
  if (encoder_ != nullptr) encoder_->close(slot);
  kv_.close(s.kv);
  if (window_kv_) window_kv_->close(s.window_kv);
  ++s.epoch;
  ++s.stay;
  s.request = RequestId::none();
  --requests_;
  ORRERY_CHECK(requests_ > 0 || window_free_blocks() == rules_.window_blocks,
               "the windows' pool is whole when nobody is there");
  if (!leaving_.empty()) std::erase(leaving_, slot);
  slots_.give_back(slot);
}

void TensorRtLlmScheduler::link_active(Slot slot) {
  sequences_[slot].order = ++next_order_;
  link_slot(sequences_, slot, no_slot, active_head_, active_tail_);
  ++active_count_;
}

void TensorRtLlmScheduler::unlink_active(Slot slot) {
  unlink_slot(sequences_, slot, no_slot, active_head_, active_tail_);
  --active_count_;
}

OffloadCounters TensorRtLlmScheduler::offload_counters() const {
  const TensorRtLlmKvPool::HostUse host = host_use();
  return {.capacity = host.capacity,
          .used = host.used,
          .stored = static_cast<std::uint64_t>(host.offloaded),
          .loaded = static_cast<std::uint64_t>(host.onboarded),
          .dropped = static_cast<std::uint64_t>(host.dropped),
          .loads = onboarding_};
}

SchedulerView TensorRtLlmScheduler::view() const {
  return {.running = started_,
          .waiting = static_cast<std::int32_t>(requests_) - started_ - remote_.held,
          .free_blocks = kv_.free_blocks(),
          .usable_blocks = kv_.num_blocks()};
}

// ------------------------------------------------------------------------------------------------- schedule

const StepPlan& TensorRtLlmScheduler::schedule() {
  if (staged()) return go_round();
  compose();
  return launch(!waits_for_batch(), true);
}

TensorRtLlmScheduler::Batch TensorRtLlmScheduler::compose() {
  begin_plan();
  fetch();
  retire_ended(next_step_);
  rejoin_passed();
  if (walks()) begin_speaking();
  begin_remote_pass();
  choose();
  const bool stuck = rows_.empty() && plan_decodes_ == 0 && next_step_ == updated_steps_;
  if (stuck && remote_.held > 0 && !remote_.ended.empty()) {  // §7.4: waits for a send to end
    notice_sent();
    choose();
  }
  // A pass that only paused somebody runs nothing; the loop spins (§1.2), and with nothing in flight the next
  // pass follows at once.
  while (rows_.empty() && plan_decodes_ == 0 && !victims_.empty() && next_step_ == updated_steps_) choose();
  return {static_cast<std::int64_t>(rows_.size()), plan_decodes_};
}

const StepPlan& TensorRtLlmScheduler::launch(bool contexts, bool runs) {
  if (!contexts || !runs) {
    budget_blocked_ |= !rows_.empty();
    rows_.clear();
  }
  if (!runs) plan_decodes_ = 0, plan_decode_context_ = plan_decode_blocks_ = 0;
  order_rows();
  prepare_contexts();
  prepare_generations();
  return finish_plan();
}

void TensorRtLlmScheduler::begin_plan() {
  chunks_.clear();
  preempted_.clear();
  preempted_for_.clear();
  passed_now_.clear();
  if (walks()) irregular_now_.clear();
  admissions_.clear();
  remote_.handed.clear();
  remote_.aborted.clear();
  plan_ = StepPlan{};
  plan_prefill_tokens_ = 0;
}

// §1.4: an idle executor blocks in the queue and takes exactly one request; the others join the next pass.
// §1.1: what stands behind the cap on active requests is invisible to the scheduler.
void TensorRtLlmScheduler::fetch() {
  std::size_t most = waits_in_get_ ? 1 : queue_.size();
  waits_in_get_ = false;
  for (; most > 0 && active_count_ < most_active(); --most) {
    const Slot slot = queue_.front();
    queue_.pop_front();
    link_active(slot);
    const bool fetches = sequences_[slot].leg == RequestLeg::decode;
    sequences_[slot].state = fetches ? State::init : State::context;
    (fetches ? remote_.inits : contexts_).push_back(slot);
  }
}

// §1.2: a sequence whose last token is certainly in flight is TO_COMPLETE: not scheduled, but it holds its
// blocks and its place until the update that brings the token. (Without overlap the update came before.)
void TensorRtLlmScheduler::retire_ended(std::int64_t before_step) {
  const auto stale = [&](const DecodeEnds::End& end) {
    const Sequence& s = sequences_[end.slot];
    return s.epoch != end.epoch || s.state != State::decoding || s.last_step != end.step;
  };
  while (const auto end = ends_.take_before(before_step, stale)) {
    Sequence& ended = sequences_[end->slot];
    decodes_.remove(ended.base);
    ended.computed = ended.base + ended.last_step + 1;
    ended.outputs = ended.max_output;
    ended.state = State::to_complete;
    to_complete_.push_back(end->slot);
  }
}

void TensorRtLlmScheduler::enter_decode_set(Slot slot, std::int64_t first_step, std::int64_t context) {
  Sequence& s = sequences_[slot];
  s.state = State::decoding;
  s.base = context - first_step;
  s.last_step = first_step + (s.max_output - s.outputs) - 1;
  decodes_.add(s.base);
  ends_.push(
      {.step = s.last_step, .order = static_cast<std::int64_t>(s.order), .slot = slot, .epoch = s.epoch});
}

void TensorRtLlmScheduler::rejoin_passed() {
  for (const Slot slot : passed_) {
    if (sequences_[slot].state != State::passed) continue;
    irregular_now_.push_back(SequenceId(slot));
    enter_decode_set(slot, next_step_, sequences_[slot].computed);
  }
  passed_.clear();
}

// §2, §3. Paused sequences give their blocks back before anybody takes new ones (§1.2 step 3).
void TensorRtLlmScheduler::choose() {
  rows_.clear();
  verify_.clear();
  victims_.clear();
  victims_for_.clear();
  keys_.clear();
  chunked_ = budget_blocked_ = false;
  plan_decodes_ = 0;
  plan_decode_context_ = plan_decode_blocks_ = 0;
  if (!choose_at_once()) {
    if (rules_.max_utilization)
      choose_max_utilization();
    else
      choose_no_evict();
  }
  for (std::size_t i = 0; i < victims_.size(); ++i) {
    preempted_for_.push_back(SequenceId(victims_for_[i]));
    pause(victims_[i]);
  }
}

// §2.3: all blocks go, after their known tokens but the last were stored; what was generated, the token in
// flight included, belongs to the prompt from now on.
void TensorRtLlmScheduler::pause(Slot slot) {
  Sequence& s = sequences_[slot];
  const std::int64_t held = held_blocks(s);
  std::int64_t stored;
  if (s.state == State::prefilling) {
    // All tokens of the prompt are known, computed or not (releaseBlocks).
    stored = rules_.store_at_first_chunk ? s.target - 1 : s.computed;
    --prefilling_;
    std::erase(contexts_, slot);
  } else if (walks()) {
    stored = pause_speaking(s);
  } else {
    const bool waited =
        std::find(irregular_now_.begin(), irregular_now_.end(), SequenceId(slot)) != irregular_now_.end();
    const bool in_flight = next_step_ > updated_steps_ && !waited;
    stored = context_of(s) - (in_flight ? 1 : 0);
    owed_ -= reserve_of(s) - held;
    if (s.state == State::decoding) {
      s.outputs = outputs_before_next_step(s);
      decodes_.remove(s.base);
    }
    s.target = s.prompt + s.outputs;
  }
  release_window(s, held, stored, true);
  kv_.release(s.kv, held, stored, true);
  ++s.epoch;
  ++s.stay;
  --started_;
  // Its last token in flight ends it at the next update, from wherever it is ([I]: the engine sets the state
  // of a request that just completed back to context here).
  s.paused_at = next_step_;
  s.state = State::context;
  s.computed = 0;
  s.speech.blocks = s.speech.tokens = 0;
  s.has_key = false;
  s.key_version = 0;
  const auto place = std::lower_bound(contexts_.begin(), contexts_.end(), slot, [&](Slot a, Slot b) {
    return sequences_[a].order < sequences_[b].order;
  });
  contexts_.insert(place, slot);
  preempted_.push_back(SequenceId(slot));
  ++counters_.preemptions;
}

// §3.4, §4.1, §4.2: blocks for the whole prompt at the first chunk. The budget was charged without knowing
// the hit; the chunk shrinks to a block border, and nobody gets what that frees.
void TensorRtLlmScheduler::prepare_contexts() {
  for (const Row& row : rows_) {
    Sequence& s = sequences_[row.slot];
    std::int64_t tokens = row.tokens;
    if (s.state == State::context) {
      const std::int64_t before = host_use().onboarded;
      const std::int64_t hit = take_window(s, s.target, kv_.add_sequence(s.kv, s.target));
      onboarding_ += host_use().onboarded > before ? 1 : 0;
      if (hit > 0 && hit + tokens < s.target) {
        tokens = (hit + tokens) / config_.block_size * config_.block_size - hit;
      } else {
        tokens = std::min(tokens, s.target - hit);
      }
      s.computed = hit;
      s.speech.blocks = blocks_for(s.target);
      s.state = State::prefilling;
      ++prefilling_;
      ++started_;
      highest_started_ = std::max(highest_started_, s.order);
      counters_.queried_tokens += static_cast<std::uint64_t>(s.target);
      counters_.hit_tokens += static_cast<std::uint64_t>(hit);
      admissions_.push_back({.sequence = SequenceId(row.slot),
                             .request = s.request,
                             .cached_tokens = static_cast<std::int32_t>(hit),
                             .resumed = s.admitted});
      s.admitted = true;
    }
    chunks_.push_back({.sequence = SequenceId(row.slot),
                       .request = s.request,
                       .new_tokens = static_cast<std::int32_t>(tokens),
                       .context = s.computed,
                       .samples = s.computed + tokens == s.target,
                       .outputs_before = s.outputs});
    s.computed += tokens;
    plan_prefill_tokens_ += tokens;
  }
}

void TensorRtLlmScheduler::prepare_generations() {
  if (walks()) return prepare_speaking();
  if (windowed()) grow_windows();
  kv_.grow_unattributed(plan_decode_blocks_);
  owed_ -= plan_decode_blocks_;
}

void TensorRtLlmScheduler::start_sampling(Slot slot, OpenStep& open) {
  Sequence& s = sequences_[slot];
  open.sampled.push_back({.sequence = SequenceId(slot),
                          .request = s.request,
                          .update = 0,
                          .resumed = s.outputs > 0,
                          .apart = staged()});
  --prefilling_;
  if (walks()) return start_speaking(slot);
  ++s.outputs;
  owed_ += reserve_of(s) - blocks_for(s.target);
  if (s.outputs < s.max_output) {
    enter_decode_set(slot, next_step_ + 1, s.target);
    return;
  }
  s.last_step = next_step_;
  s.state = State::to_complete;
  to_complete_.push_back(slot);
}

// What the engine would encode for the chunks just composed.
void TensorRtLlmScheduler::encode_images() {
  encoder_->begin_step();
  for (const PrefillWork& chunk : chunks_)
    encoder_->touch(chunk.sequence.value(), chunk.context, chunk.new_tokens);
  plan_.encode = encoder_->encoded();
  for (const EncodeWork& image : plan_.encode) {
    digest_.add(image.request.value() * 4);
    digest_.add(std::int64_t{image.embeddings});
  }
}

const StepPlan& TensorRtLlmScheduler::finish_plan() {
  std::erase_if(irregular_now_,
                [&](SequenceId id) { return sequences_[id.value()].state != State::decoding; });
  const std::int64_t free = kv_.free_blocks();
  counters_.min_free_blocks = std::min(counters_.min_free_blocks, free);
  plan_.prefill = chunks_;
  if (encoder_ != nullptr) encode_images();
  plan_.preempted = preempted_;
  plan_.preempted_for = preempted_for_;
  plan_.handed = remote_.handed;
  plan_.aborted = remote_.aborted;
  plan_.paused = passed_now_;
  plan_.decode_sequences = plan_decodes_;
  plan_.decoding = this;
  plan_.decode_context_tokens = plan_decode_context_;
  const TensorRtLlmKvPool::HostUse host = host_use();
  plan_.onboarded_blocks = host.onboarded - onboarded_;
  plan_.offloaded_blocks = host.offloaded - offloaded_;
  onboarded_ += plan_.onboarded_blocks;
  offloaded_ += plan_.offloaded_blocks;
  plan_.verify = verify_;
  plan_.draft_tokens = drafting_ ? config_.speculation.tokens * std::int64_t{plan_decodes_} : 0;
  plan_.without_drafting = speculates() && !drafting_;
  plan_.decode_irregular = static_cast<std::int32_t>(irregular_now_.size());
  plan_.prefill_tokens = plan_prefill_tokens_;
  plan_.new_requests = static_cast<std::int32_t>(admissions_.size());
  plan_.running = started_;
  plan_.waiting = view().waiting;
  plan_.free_blocks = free;
  for (const SequenceId id : preempted_) digest_.add(sequences_[id.value()].request.value() * 4 + 1);
  if (plan_.tokens() == 0) return plan_;

  remote_.launched.swap(remote_.joined);
  remote_.joined.clear();
  plan_.joined = remote_.launched;
  Open open = open_.blank();
  open.regular_decodes = plan_decodes_ - plan_.decode_irregular;
  open.irregular = irregular_now_;
  irregular_now_.clear();  // who could not run (of ranks: for others' sake) is irregular still
  for (const PrefillWork& chunk : chunks_) {
    digest_.add(chunk.request.value() * 4 + 2);
    digest_.add((static_cast<std::uint64_t>(chunk.new_tokens) << 32) ^
                static_cast<std::uint64_t>(chunk.context));
    const Slot slot = chunk.sequence.value();
    const Sequence& s = sequences_[slot];
    // §4.3: known tokens − 1 when the step is processed: a finished context knows its first output too.
    const std::int64_t known = s.target + (chunk.samples ? 1 : 0);
    if (chunk.samples || rules_.store_at_first_chunk)
      open.stores.push_back({.slot = slot, .stay = s.stay, .tokens = known - 1});
    if (chunk.samples) start_sampling(slot, open);
  }
  if (!chunks_.empty()) {
    std::erase_if(contexts_, [&](Slot slot) { return is_generation(sequences_[slot]); });
  }
  digest_plan(plan_decodes_, plan_decode_context_, free);
  open_.push(std::move(open));
  plan_.repeat = stretch_limit();
  ++next_step_;
  return plan_;
}

void TensorRtLlmScheduler::digest_plan(std::int64_t decode_sequences, std::int64_t decode_context,
                                       std::int64_t free_blocks) {
  digest_.add((decode_sequences << 48) ^ (decode_context << 20) ^ free_blocks);
  if (windowed()) digest_.add(window_free_blocks());
}

// How many steps like the one just composed may follow each other without a decision: pure decode, the same
// members, blocks for all of them, no end and nothing to be stored among the updates inside. Contexts that
// wait for blocks go on waiting: what they need stays, what is left for them never grows.
std::int64_t TensorRtLlmScheduler::stretch_limit() const {
  constexpr std::int64_t longest = 256;
  if (!config_.stretches || walks() || windowed() || !chunks_.empty() || plan_decodes_ != decodes_.size() ||
      !preempted_.empty())
    return 1;
  if (!to_complete_.empty() || prefilling_ > 0 || !passed_.empty() || budget_blocked_) return 1;
  if (open_.size() != config_.steps_in_flight) return 1;
  if (plan_.onboarded_blocks + plan_.offloaded_blocks > 0) return 1;
  // Who left in this pass, behind its intake, has made room for one more.
  if (!queue_.empty() && active_count_ < config_.max_num_seqs) return 1;
  for (const Open& open : open_) {
    if (!open.stores.empty()) return 1;
  }
  // Heap entries may be stale; a stale top only shortens the stretch.
  const std::int64_t until_end = ends_.earliest() - next_step_ + 1;
  const std::int64_t limit = std::min(longest, until_end);
  if (limit <= 1) return 1;
  // A block that is copied to host memory belongs to its step.
  return 1 + decodes_.steps_within(next_step_ + 1, kv_.free_without_offload(), limit - 1);
}

}  // namespace orrery
