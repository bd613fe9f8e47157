#include "sim/costed/cost_model_executor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/mutation.h"
#include "sim/costed/prompt_chunks.h"

namespace orrery {

namespace {

const NoDrafts one_token;

void slow_down(StepTiming& timing, double speed) {
  timing.busy = slowed(timing.busy, speed);
  timing.last_kernel = slowed(timing.last_kernel, speed);
}

}  // namespace

CostModelExecutor::CostModelExecutor(std::vector<const StepPricer*> pricers, const OutputLengths& oracle,
                                     LaunchJitter jitter, const EncoderPricer* encoder,
                                     const AcceptanceOracle* acceptance)
    : jitter_(std::move(jitter)), events_(pricers.size()), oracle_(&oracle), acceptance_(acceptance),
      encoder_(encoder) {
  engines_.reserve(pricers.size());
  for (const StepPricer* pricer : pricers) {
    engines_.push_back(Engine{.pricer = pricer,
                              .pipeline = HostPipeline(pricer->launcher_is_core()),
                              .depth = static_cast<std::size_t>(pricer->steps_in_flight()),
                              .open = {},
                              .stretch = {},
                              .updates = {},
                              .first_stamp = {},
                              .second_stamp = {},
                              .last_stamp = {},
                              .lanes = {},
                              .eos = {},
                              .speech = {},
                              .staged = {},
                              .staged_until = {},
                              .speeds = {}});
    make_state(engines_.back());
    if (pricer->stages() > 1) usage_.stage_ns.resize(static_cast<std::size_t>(pricer->stages()));
  }
}

// What a fresh process knows of its sequences and stages.
void CostModelExecutor::make_state(Engine& e) const {
  const auto lanes = static_cast<std::uint32_t>(e.pricer->ranks());
  const bool shared = e.pricer->ranks_share_slots();
  for (std::uint32_t lane = 0; lane < lanes; ++lane)
    shared ? e.lanes.emplace_back(*oracle_, 0, 1) : e.lanes.emplace_back(*oracle_, lane, lanes);
  if (acceptance_ != nullptr) e.speech.emplace(*acceptance_, *oracle_);
  if (e.pricer->stages() == 1) return;
  e.staged.emplace(e.pricer->stage_rules());
  e.speech.emplace(one_token, *oracle_);
}

std::int32_t CostModelExecutor::depth(InstanceId instance) const {
  return static_cast<std::int32_t>(engines_[instance.value()].depth);
}

DeviceSpan CostModelExecutor::device_span(InstanceId instance, StepId step) const {
  const Engine& e = engines_[instance.value()];
  const auto place = static_cast<std::int64_t>(step.value()) - e.next_update;
  ORRERY_CHECK(place >= 0 && place < static_cast<std::int64_t>(e.open.size()), "the step is open");
  const StepTimes& times = e.open[static_cast<std::size_t>(place)].times;
  return {times.device_begin, times.device_end};
}

SimDuration CostModelExecutor::output_per_sequence(InstanceId instance) const {
  return engines_[instance.value()].pricer->output_per_sequence();
}

SimDuration CostModelExecutor::output_delay(InstanceId instance) const {
  return engines_[instance.value()].pricer->output_delay();
}

void CostModelExecutor::count_usage(const StepPlan& plan, const StepShape& shape, std::int64_t busy) {
  ++usage_.prices;
  StepKind& kind = plan.prefill.empty()         ? usage_.decode
                   : plan.decode_sequences == 0 ? usage_.prefill
                                                : usage_.mixed;
  kind.ns += busy;
  ++kind.steps;
  kind.prefill_tokens += plan.prefill_tokens;
  kind.chunks += static_cast<std::int64_t>(plan.prefill.size());
  for (const PrefillWork& w : plan.prefill) kind.prefill_context += w.context;
  kind.decodes += plan.decode_sequences;
  kind.decode_context += plan.verify.empty() ? plan.decode_context_tokens : shape.decode_context_tokens;
  kind.drafts += plan.draft_tokens;
}

void CostModelExecutor::submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) {
  Engine& e = engines_[instance.value()];
  if (fabric_ != nullptr) fabric_->pump(now);
  ORRERY_CHECK(e.open.size() < e.depth && e.stretch.planned == 0,
               "no more steps than the engine allows are open");
  const auto index = static_cast<std::int64_t>(step.value());
  if (waves_.on() && plan.after_idle && e.open.empty() && e.pipeline.device_free() <= now)
    e.pipeline.occupy_device(waves_.busy_until(instance.value(), index, e.pipeline.device_free(), now));
  if (!e.speech) track_ends(e, index, plan);
  if (e.staged) {
    plan.empty_batch ? begin_empty(e, plan, now) : begin_staged(e, instance.value(), plan, now);
    return schedule_event(instance.value());
  }
  // A step that compiles is no part of a stretch of equal ones.
  const bool alike = !first_use_.is_new(instance.value(), plan.tokens()) &&
                     (!experts_.on() || experts_.steps_ahead(instance.value()) > 0);
  if (plan.repeat > 1 && alike && !meets_traffic(instance.value()) && e.open.size() + 1 == e.depth) {
    begin_stretch(e, plan, now);
  } else {
    begin_single(e, instance.value(), plan, now);
  }
  schedule_event(instance.value());
}

// Which tokens decode. With speculation only what is accepted says so.
void CostModelExecutor::name_tokens(const StepPlan& plan) {
  tokens_.clear();
  const auto append = [&](const DecodingTokens* decoding, std::int32_t count) {
    if (decoding == nullptr || count == 0) return;
    const std::size_t before = tokens_.size();
    decoding->append_decoding(tokens_);
    ORRERY_CHECK(tokens_.size() - before == static_cast<std::size_t>(count), "every decode has a name");
  };
  if (!plan.verify.empty()) return;
  if (plan.ranks.empty()) append(plan.decoding, plan.decode_sequences);
  for (const RankPlan& rank : plan.ranks) append(rank.decoding, rank.decode_sequences);
}

// Where graph dispatch looks at counts only, a chunk of one token is a decode (vllm_0_24.md §3).
StepShape CostModelExecutor::shape_alone(Engine& e, const StepPlan& plan) {
  chunks_.clear();
  StepShape shape{.prefill = {},
                  .decode_sequences = plan.decode_sequences,
                  .decode_context_tokens = plan.decode_context_tokens,
                  .new_requests = plan.new_requests,
                  .running = plan.running,
                  .draft_tokens = static_cast<std::int32_t>(plan.draft_tokens),
                  .without_drafting = plan.without_drafting};
  const bool by_token = experts_.by_token();
  if (by_token) name_tokens(plan);
  if (e.speech) shape.decode_context_tokens = e.speech->begin(plan, by_token ? &tokens_ : nullptr);
  if (by_token) experts_.decoding(index_of(e), tokens_);
  add_prompts(plan.prefill, *e.pricer, shape, chunks_);
  shape.prefill = chunks_;
  return shape;
}

StepTiming CostModelExecutor::price_alone(Engine& e, const StepPlan& plan, SimTime now, StepShape& shape) {
  shape = shape_alone(e, plan);
  if (experts_.on())
    shape.expert_q20 = experts_.next(index_of(e), e.pricer->expert_work(std::span(&shape, 1)), now);
  return e.pricer->price(shape);
}

StepTiming CostModelExecutor::price_ranks(const Engine& e, const StepPlan& plan, SimTime now) {
  ORRERY_CHECK(plan.ranks.size() == e.lanes.size(), "a plan for every rank");
  if (plan.empty_batch) return e.pricer->price_joint_pass();
  chunks_.clear();
  chunks_.reserve(plan.prefill.size());  // shapes point into it
  rank_shapes_.clear();
  for (const RankPlan& rank : plan.ranks) {
    StepShape shape;
    shape.decode_sequences = rank.decode_sequences;
    shape.decode_context_tokens = rank.decode_context_tokens;
    shape.new_requests = rank.new_requests;
    shape.running = rank.running;
    const std::size_t first = chunks_.size();
    add_prompts(plan.prefill.subspan(rank.first_prefill, rank.prefills), *e.pricer, shape, chunks_);
    shape.prefill = std::span<const PrefillChunk>(chunks_).subspan(first);
    rank_shapes_.push_back(shape);
  }
  if (experts_.on()) {
    if (experts_.by_token()) {
      name_tokens(plan);
      experts_.decoding(index_of(e), tokens_);
    }
    const std::int64_t q20 = experts_.next(index_of(e), e.pricer->expert_work(rank_shapes_), now);
    for (StepShape& shape : rank_shapes_) shape.expert_q20 = q20;
  }
  return e.pricer->price_joint(rank_shapes_);
}

void CostModelExecutor::begin_single(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now) {
  StepShape shape;
  OpenStep open{.timing = plan.ranks.empty() ? price_alone(e, plan, now, shape) : price_ranks(e, plan, now),
                .times = {},
                .prompts_alone = !plan.prefill.empty() && plan.decode_sequences == 0};
  if (plan.ranks.empty()) {
    e.lanes.front().begin(!plan.stalls_decodes);
  } else {
    for (std::size_t r = 0; r < e.lanes.size(); ++r)
      e.lanes[r].begin(plan.ranks[r].runs && !plan.ranks[r].stalls_decodes);
  }
  // A prompt's last token alone, where that runs in the decodes' graph, is one of them.
  const bool pieces = !plan.prefill.empty() && (!plan.ranks.empty() || !shape.prefill.empty());
  // A decode step is one captured graph; a step with prompts is launched piece by piece, and beside decodes
  // the core thread shares the host with the path of their outputs. What was measured is that; alone a prompt
  // takes the median.
  if (pieces && plan.decode_sequences > 0) open.timing.launch = jitter_.next(instance, open.timing.launch);
  open.timing.launch += first_use_.charge(instance, plan.tokens());
  if (encode_only_) open.timing.busy = open.timing.launch = open.timing.last_kernel = 0;
  if (!e.speeds.empty()) slow_down(open.timing, e.speeds.front());
  if (shares_links(instance) && !plan.empty_batch) {
    const std::span<const StepShape> ranks =
        plan.ranks.empty() ? std::span<const StepShape>(&shape, 1) : std::span<const StepShape>(rank_shapes_);
    open.timing.busy = share_step(e, ranks, open.timing.busy, now);
  }
  if (!plan.empty_batch) count_usage(plan, shape, open.timing.busy);
  if (!plan.encode.empty()) {
    add_images(plan, open.timing);
    if (!e.speeds.empty()) open.timing.ahead = slowed(open.timing.ahead, e.speeds.front());
  }
  if (plan.onboarded_blocks + plan.offloaded_blocks > 0) copy_blocks(e, instance, plan, now);
  if (plan.blocking_store_blocks > 0)
    now = later(now, copied(instance,
                            {.direction = TransferWork::Direction::to_host,
                             .id = 0,
                             .blocks = plan.blocking_store_blocks,
                             .behind_step = false},
                            now, now));
  const HostPipeline before = e.pipeline;
  open.times = e.pipeline.begin(open.timing, now);
  const auto rows = plan.decode_sequences + static_cast<std::int64_t>(plan.prefill.size());
  if (!plan.prefill.empty() && first_use_.grows(instance, plan.tokens(), rows)) {
    const SimDuration waits =
        open.times.device_end - open.times.launch_end - SimDuration(open.timing.last_kernel);
    first_use_.held(waits.ns());
    open.timing.launch += waits.ns();
    open.prompts_alone = false;  // the core thread waits and has nothing to lose to others
    e.pipeline = before;
    open.times = e.pipeline.begin(open.timing, now);
  }
  if (plan.load_blocks > 0) {
    const SimTime loaded = copied(instance,
                                  {.direction = TransferWork::Direction::to_device,
                                   .id = 0,
                                   .blocks = plan.load_blocks,
                                   .behind_step = false},
                                  now, now);
    // The end moves, not the kernels: whatever ran before them is covered too.
    open.times.device_end = later(open.times.device_end, loaded);
    e.pipeline.occupy_device(loaded);
  }
  e.open.push_back(open);
  e.host_free_due = e.open.size() < e.depth;
}

// The encoder runs first in its step, on the same stream and launched by the same thread.
void CostModelExecutor::add_images(const StepPlan& plan, StepTiming& timing) {
  ORRERY_CHECK(encoder_ != nullptr, "a step with images has an encoder to price them");
  images_.clear();
  std::int64_t patches = 0;
  for (const EncodeWork& image : plan.encode) {
    images_.push_back({image.rows, image.columns, image.tiles});
    patches += images_.back().patches();
  }
  const EncoderTiming encoder = encoder_->price(images_);
  timing.ahead = encoder.busy;
  timing.ahead_launch = encoder.launch;
  timing.launch += encoder.launch;
  usage_.encoder_ns += encoder.busy;
  usage_.encoder_launch_ns += encoder.launch;
  ++usage_.encoder_passes;
  std::int64_t largest = 0;
  for (const EncoderImage& image : usage_.largest_pass) largest += image.patches();
  if (patches > largest) usage_.largest_pass = images_;
}

// Copies wait for the step before, and the step for both directions (TensorRT-LLM,
// `sync_transfer_manager_with_…` and `refresh_blocks`).
void CostModelExecutor::copy_blocks(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now) {
  using Direction = TransferWork::Direction;
  const SimTime ready = later(now, e.pipeline.device_free());
  const SimTime up = copied(
      instance, {.direction = Direction::to_device, .id = 0, .blocks = plan.onboarded_blocks}, ready, now);
  const SimTime down = copied(
      instance, {.direction = Direction::to_host, .id = 0, .blocks = plan.offloaded_blocks}, ready, now);
  e.pipeline.occupy_device(later(up, down));
  usage_.copy_ns += (later(up, down) - ready).ns();
}

// What a step computes is there when it has ended on the device.
void CostModelExecutor::transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) {
  for (const TransferWork& w : work) {
    const Engine& e = engines_[instance.value()];
    const SimTime ready = w.behind_step && !e.open.empty() ? later(now, e.open.back().times.device_end) : now;
    if (copies_on_fabric(instance.value())) {
      fabric_->copy(first_instance_ + instance.value(), w, ready, now);
      continue;
    }
    transfers_.push_back({instance, w.id, links_[instance.value()].end_of(w, ready)});
    std::push_heap(transfers_.begin(), transfers_.end(), done_later);
  }
}

void CostModelExecutor::cut(InstanceId instance, SimTime at) {
  Engine& e = engines_[instance.value()];
  Stretch& s = e.stretch;
  if (s.planned == 0) return;
  const auto end = s.boundaries.begin() + s.taken;
  const auto first = std::lower_bound(s.boundaries.begin(), end, at);
  if (first == end) return;
  s.taken = first - s.boundaries.begin() + 1;
  schedule_event(instance.value());
}

void CostModelExecutor::take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) {
  Engine& e = engines_[instance.value()];
  if (e.stretch.planned > 0 || e.open.empty() || !e.open.back().prompts_alone || !links_.empty()) return;
  OpenStep& last = e.open.back();
  if (e.pipeline.delay_launch(last.timing, last.times, e.pricer->input_work(prompt_tokens), now))
    schedule_event(instance.value());
}

SimTime CostModelExecutor::hold_launch(InstanceId instance, SimDuration work, SimTime now) {
  Engine& e = engines_[instance.value()];
  ORRERY_CHECK(e.stretch.planned == 0 && !e.staged, "a launch that is held up is of one step on one stage");
  if (e.open.empty() || e.open.back().times.schedule_begin != now)
    return e.pipeline.occupy_launcher(now, work);
  const SimTime begin = e.pipeline.hold_launch(e.open.back().timing, e.open.back().times, work);
  schedule_event(instance.value());
  return begin;
}

void CostModelExecutor::schedule_event(std::uint32_t id) {
  Engine& e = engines_[id];
  if (e.stretch.planned > 0) {
    events_.set(id, e.stretch.boundaries[static_cast<std::size_t>(e.stretch.taken - 1)]);
  } else if (e.host_free_due) {
    events_.set(id, core_free(e));
  } else if (!e.open.empty()) {
    events_.set(id, core_free_after_update(e));
  } else {
    events_.set(id, SimTime::never());
  }
}

void CostModelExecutor::collect(SimTime now, Outcomes& outcomes) {
  if (copies_on_fabric_) {
    fabric_->pump(now);
    take_copies();
  }
  while (events_.first_time() <= now) {
    const std::uint32_t id = events_.first();
    const SimTime at = events_.first_time();
    Engine& e = engines_[id];
    if (e.stretch.planned == 0 && e.host_free_due) {
      e.host_free_due = false;
      if (pass_wait_.ns() > 0 && !e.staged) e.pipeline.begin({}, at);  // nothing before then
      outcomes.host_free.push_back({InstanceId(id), at});
      schedule_event(id);
      continue;
    }
    StepOutcome out{.instance = InstanceId(id),
                    .first = StepId(static_cast<std::uint64_t>(e.next_update)),
                    .scheduled = 1,
                    .updates = {},
                    .eos = {},
                    .spoken = {},
                    .at = at,
                    .first_stamp = {},
                    .second_stamp = {},
                    .last_stamp = {}};
    if (e.stretch.planned > 0) {
      out.scheduled = e.stretch.taken;
      finish_stretch(e);
      if (shares_links(id)) share_stretch(e, e.stretch.last_busy, at);
    } else {
      OpenStep& oldest = e.open.front();
      update_oldest(e);
      e.updates.assign(1, oldest.times.update_end);
      e.first_stamp = e.second_stamp = e.last_stamp = stamp(oldest.times);
      for (EndTracker& lane : e.lanes) {
        if (!e.staged) lane.update();
      }
      e.open.pop_front();
    }
    if (e.open.empty() && shares_links(id)) shared_->nothing_in_flight(first_instance_ + id, at);
    e.next_update += static_cast<std::int64_t>(e.updates.size());
    if (e.speech) {
      out.spoken = e.speech->end();
    } else {
      take_ends(e, e.next_update - 1);
    }
    out.updates = e.updates;
    out.eos = e.eos;
    out.first_stamp = e.first_stamp;
    out.second_stamp = e.second_stamp;
    out.last_stamp = e.last_stamp;
    outcomes.steps.push_back(out);
    schedule_event(id);
  }
  while (!transfers_.empty() && transfers_.front().at <= now) {
    std::pop_heap(transfers_.begin(), transfers_.end(), done_later);
    outcomes.transfers.push_back(transfers_.back());
    transfers_.pop_back();
  }
}

// ----------------------------------------------------------------------------------------- ends of sequences

void CostModelExecutor::ended(InstanceId instance, SequenceId sequence) {
  for (EndTracker& lane : engines_[instance.value()].lanes) lane.ended(sequence);
}

void CostModelExecutor::track_ends(Engine& e, std::int64_t step, const StepPlan& plan) {
  if (plan.ranks.empty())
    return e.lanes.front().track(step, plan, plan.prefill, plan.joined, plan.stalls_decodes);
  for (std::size_t r = 0; r < e.lanes.size(); ++r) {
    const RankPlan& rank = plan.ranks[r];
    e.lanes[r].track(step, plan, plan.prefill.subspan(rank.first_prefill, rank.prefills),
                     plan.joined.subspan(rank.first_joined, rank.joins), rank.stalls_decodes);
  }
}

std::int64_t CostModelExecutor::updates_until_end(Engine& e) {
  std::int64_t updates = e.lanes.front().updates_until_end(e.next_update);
  for (std::size_t r = 1; r < e.lanes.size(); ++r)
    updates = std::min(updates, e.lanes[r].updates_until_end(e.next_update));
  return updates;
}

void CostModelExecutor::take_ends(Engine& e, std::int64_t step) {
  e.eos.clear();
  for (EndTracker& lane : e.lanes) lane.take(step, e.eos);
}

}  // namespace orrery
