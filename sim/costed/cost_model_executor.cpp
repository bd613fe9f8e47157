#include "sim/costed/cost_model_executor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/mutation.h"

namespace orrery {

namespace {

constexpr std::size_t stretch_ring = 8;  // more than the steps that any engine has in flight

constexpr auto later_end = [](const auto& a, const auto& b) {
  return a.step != b.step ? a.step > b.step : a.slot > b.slot;
};

constexpr auto done_later = [](const TransferDone& a, const TransferDone& b) {
  if (a.at != b.at) return a.at > b.at;
  return a.instance != b.instance ? a.instance > b.instance : a.id > b.id;
};

StepStamp stamp(const StepTimes& t) {
  return {.schedule_begin = t.schedule_begin,
          .launch_begin = t.launch_begin,
          .device_begin = t.device_begin,
          .device_end = t.device_end};
}

}  // namespace

CostModelExecutor::CostModelExecutor(std::vector<const StepPricer*> pricers, const OutputLengths& oracle,
                                     LaunchJitter jitter, const EncoderPricer* encoder,
                                     const AcceptanceOracle* acceptance)
    : oracle_(oracle), jitter_(std::move(jitter)), events_(pricers.size()), encoder_(encoder) {
  engines_.reserve(pricers.size());
  for (const StepPricer* pricer : pricers) {
    engines_.push_back(Engine{.pricer = pricer,
                              .pipeline = HostPipeline(pricer->launcher_is_core()),
                              .depth = static_cast<std::size_t>(pricer->steps_in_flight()),
                              .open = {},
                              .stretch = {},
                              .updates = {},
                              .updated_decode = -1,
                              .first_stamp = {},
                              .second_stamp = {},
                              .last_stamp = {},
                              .next_decode = 0,
                              .ends = {},
                              .end_of_slot = {},
                              .at_once = {},
                              .eos = {},
                              .speech = {}});
    if (acceptance != nullptr) engines_.back().speech.emplace(*acceptance, oracle);
  }
}

std::int32_t CostModelExecutor::depth(InstanceId instance) const {
  return static_cast<std::int32_t>(engines_[instance.value()].depth);
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
  ORRERY_CHECK(e.open.size() < e.depth && e.stretch.planned == 0,
               "no more steps than the engine allows are open");
  const auto index = static_cast<std::int64_t>(step.value());
  if (!e.speech) track_ends(e, index, plan);
  // A step that compiles is no part of a stretch of equal ones.
  const bool alike = !first_use_.is_new(instance.value(), plan.tokens());
  if (plan.repeat > 1 && alike && e.open.size() + 1 == e.depth) {
    begin_stretch(e, plan, now);
  } else {
    begin_single(e, instance.value(), plan, now);
  }
  schedule_event(instance.value());
}

// Where graph dispatch looks at counts only, a chunk of one token is a decode (vllm_0_24.md §3).
void CostModelExecutor::begin_single(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now) {
  chunks_.clear();
  StepShape shape{.prefill = {},
                  .decode_sequences = plan.decode_sequences,
                  .decode_context_tokens = plan.decode_context_tokens,
                  .new_requests = plan.new_requests,
                  .running = plan.running,
                  .draft_tokens = static_cast<std::int32_t>(plan.draft_tokens),
                  .without_drafting = plan.without_drafting};
  if (e.speech) shape.decode_context_tokens = e.speech->begin(plan);
  const bool fold = e.pricer->single_token_is_decode();
  for (const PrefillWork& w : plan.prefill) {
    if (fold && w.new_tokens == 1) {
      ++shape.decode_sequences;
      shape.decode_context_tokens += w.context;
    } else {
      chunks_.push_back({w.new_tokens, w.context});
    }
  }
  shape.prefill = chunks_;
  if (experts_.on()) shape.expert_q20 = experts_.next(instance, e.pricer->padded_tokens(shape), now);
  OpenStep open{
      .timing = e.pricer->price(shape), .times = {}, .decode = plan.stalls_decodes ? -1 : e.next_decode++};
  // A decode step is one captured graph; a step with prompts is launched piece by piece, and beside decodes
  // the core thread shares the host with the path of their outputs. What was measured is that; alone a prompt
  // takes the median.
  if (!plan.prefill.empty() && plan.decode_sequences > 0)
    open.timing.launch = jitter_.next(instance, open.timing.launch);
  open.timing.launch += first_use_.charge(instance, plan.tokens());
  count_usage(plan, shape, open.timing.busy);
  if (!plan.encode.empty()) add_images(plan, open.timing);
  if (plan.onboarded_blocks + plan.offloaded_blocks > 0) copy_blocks(e, instance, plan, now);
  if (plan.blocking_store_blocks > 0)
    now = later(now, links_[instance].end_of({.direction = TransferWork::Direction::to_host,
                                              .id = 0,
                                              .blocks = plan.blocking_store_blocks,
                                              .behind_step = false},
                                             now));
  const HostPipeline before = e.pipeline;
  open.times = e.pipeline.begin(open.timing, now);
  if (plan.load_blocks > 0) {
    const SimTime loaded = links_[instance].end_of({.direction = TransferWork::Direction::to_device,
                                                    .id = 0,
                                                    .blocks = plan.load_blocks,
                                                    .behind_step = false},
                                                   now);
    if (loaded > open.times.device_end) {
      open.timing.busy = (loaded - open.times.device_begin).ns();
      e.pipeline = before;
      open.times = e.pipeline.begin(open.timing, now);
    }
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
  timing.busy += encoder.busy;
  timing.launch += encoder.launch;
  usage_.encoder_ns += encoder.busy;
  ++usage_.encoder_passes;
  std::int64_t largest = 0;
  for (const EncoderImage& image : usage_.largest_pass) largest += image.patches();
  if (patches > largest) usage_.largest_pass = images_;
}

// Copies wait for the step before, and the step for both directions (TensorRT-LLM,
// `sync_transfer_manager_with_…` and `refresh_blocks`).
void CostModelExecutor::copy_blocks(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now) {
  using Direction = TransferWork::Direction;
  HostLink& link = links_[instance];
  const SimTime ready = later(now, e.pipeline.device_free());
  const SimTime up =
      link.end_of({.direction = Direction::to_device, .id = 0, .blocks = plan.onboarded_blocks}, ready);
  const SimTime down =
      link.end_of({.direction = Direction::to_host, .id = 0, .blocks = plan.offloaded_blocks}, ready);
  e.pipeline.occupy_device(later(up, down));
  usage_.copy_ns += (later(up, down) - ready).ns();
}

// What a step computes is there when it has ended on the device.
void CostModelExecutor::transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) {
  for (const TransferWork& w : work) {
    const Engine& e = engines_[instance.value()];
    const SimTime ready = w.behind_step && !e.open.empty() ? later(now, e.open.back().times.device_end) : now;
    transfers_.push_back({instance, w.id, links_[instance.value()].end_of(w, ready)});
    std::push_heap(transfers_.begin(), transfers_.end(), done_later);
  }
}

std::int64_t CostModelExecutor::padded_decodes(const Engine& e, const Stretch& s) const {
  StepShape shape;
  shape.decode_sequences = s.decodes;
  shape.decode_context_tokens = s.context;
  return e.pricer->padded_tokens(shape);
}

void CostModelExecutor::begin_stretch(Engine& e, const StepPlan& plan, SimTime now) {
  Stretch& s = e.stretch;
  s.planned = std::max<std::int64_t>(1, std::min(plan.repeat, updates_until_end(e)));
  s.taken = s.planned;
  s.decodes = plan.decode_sequences;
  s.running = plan.running;
  s.context = plan.decode_context_tokens;
  s.start = now;
  s.pipeline = e.pipeline;
  s.open = e.open;
  if (experts_.on()) s.experts = experts_.state(index_of(e));
  run_stretch(e, s.planned);
}

// Schedule, launch, update, schedule …: each boundary is the core thread's next chance to do something else.
void CostModelExecutor::run_stretch(Engine& e, std::int64_t steps) {
  Stretch& s = e.stretch;
  e.updates.clear();
  s.boundaries.clear();
  SimTime now = s.start;
  std::int64_t context = s.context;
  const std::int64_t first_decode = e.next_decode;
  const bool moving = experts_.on();
  DecodeLine line = e.pricer->decode_line(s.decodes, context, s.running, !moving);
  const std::size_t id = index_of(e);
  const std::int64_t tokens = moving ? padded_decodes(e, s) : 0;
  // The steps open before the stretch stand in e.open; of its own, whose timings differ by `busy` only, which
  // an update does not read, the ring keeps when things happened.
  const std::size_t ahead = e.open.size();
  ORRERY_CHECK(ahead < stretch_ring, "steps in flight");
  std::array<StepTimes, stretch_ring> ring;
  std::array<std::int64_t, stretch_ring> busy{};
  StepTiming timing = line.timing;
  for (std::int64_t i = 0; i < steps; ++i) {
    if (context > line.high) {
      line = e.pricer->decode_line(s.decodes, context, s.running, !moving);
      timing = line.timing;
    }
    timing.busy = line.busy(context, moving ? experts_.next(id, tokens, now) : 0);
    const std::size_t place = static_cast<std::size_t>(i) % stretch_ring;
    ring[place] = e.pipeline.begin(timing, now);
    busy[place] = timing.busy;
    ++e.next_decode;
    const std::int64_t own = i - static_cast<std::int64_t>(ahead);  // of the stretch's steps the oldest open
    StepTimes& times = own < 0 ? e.open.front().times : ring[static_cast<std::size_t>(own) % stretch_ring];
    e.pipeline.update(own < 0 ? e.open.front().timing : timing, times);
    e.updates.push_back(times.update_end);
    if (i == 0) e.first_stamp = stamp(times);
    if (i == 1) e.second_stamp = stamp(times);
    if (i + 1 == steps) e.last_stamp = stamp(times);
    e.updated_decode = own < 0 ? e.open.front().decode : first_decode + own;
    if (own < 0) e.open.pop_front();
    now = e.pipeline.core_free();
    s.boundaries.push_back(now);
    if (!ORRERY_MUTANT(stretch_skips_context_growth)) context += s.decodes;
  }
  for (std::int64_t i = std::max<std::int64_t>(0, steps - static_cast<std::int64_t>(ahead)); i < steps; ++i) {
    const std::size_t place = static_cast<std::size_t>(i) % stretch_ring;
    timing.busy = busy[place];
    e.open.push_back({.timing = timing, .times = ring[place], .decode = first_decode + i});
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

void CostModelExecutor::schedule_event(std::uint32_t id) {
  Engine& e = engines_[id];
  if (e.stretch.planned > 0) {
    events_.set(id, e.stretch.boundaries[static_cast<std::size_t>(e.stretch.taken - 1)]);
  } else if (e.host_free_due) {
    events_.set(id, e.pipeline.core_free());
  } else if (!e.open.empty()) {
    HostPipeline ahead = e.pipeline;
    StepTimes times = e.open.front().times;
    ahead.update(e.open.front().timing, times);
    events_.set(id, ahead.core_free());
  } else {
    events_.set(id, SimTime::never());
  }
}

void CostModelExecutor::collect(SimTime now, Outcomes& outcomes) {
  while (events_.first_time() <= now) {
    const std::uint32_t id = events_.first();
    const SimTime at = events_.first_time();
    Engine& e = engines_[id];
    if (e.stretch.planned == 0 && e.host_free_due) {
      e.host_free_due = false;
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
      Stretch& s = e.stretch;
      if (s.taken < s.planned) {
        e.pipeline = s.pipeline;
        e.open = s.open;
        e.next_decode -= s.planned;
        if (experts_.on()) experts_.restore(id, s.experts);
        run_stretch(e, s.taken);
      }
      out.scheduled = s.taken;
      usage_.prices += static_cast<std::uint64_t>(s.taken);
      usage_.decode.ns += (e.pipeline.device_free() - later(s.start, s.pipeline.device_free())).ns();
      usage_.decode.steps += s.taken;
      usage_.decode.decodes += s.taken * s.decodes;
      usage_.decode.decode_context += s.taken * s.context;
      s.planned = 0;
    } else {
      OpenStep& oldest = e.open.front();
      e.pipeline.update(oldest.timing, oldest.times);
      e.updates.assign(1, oldest.times.update_end);
      e.first_stamp = e.second_stamp = e.last_stamp = stamp(oldest.times);
      e.updated_decode = oldest.decode;
      e.open.pop_front();
    }
    e.next_update += static_cast<std::int64_t>(e.updates.size());
    if (e.speech) {
      out.spoken = e.speech->end();
    } else {
      take_ends(e, e.next_update - 1, e.updated_decode);
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

void CostModelExecutor::set_end(Engine& e, std::uint32_t slot, std::int64_t step) {
  if (slot >= e.end_of_slot.size()) e.end_of_slot.resize(slot + 1, -1);
  e.end_of_slot[slot] = step;
  if (step < 0) return;
  e.ends.push_back({step, slot});
  std::push_heap(e.ends.begin(), e.ends.end(), later_end);
}

void CostModelExecutor::ended(InstanceId instance, SequenceId sequence) {
  Engine& e = engines_[instance.value()];
  if (sequence.value() < e.end_of_slot.size()) set_end(e, sequence.value(), -1);
  if (!e.at_once.empty())
    std::erase_if(e.at_once, [&](const auto& end) { return end.slot == sequence.value(); });
}

void CostModelExecutor::track_ends(Engine& e, std::int64_t step, const StepPlan& plan) {
  const auto tracked = [&](SequenceId id) {
    return id.value() < e.end_of_slot.size() && e.end_of_slot[id.value()] >= 0;
  };
  const std::int64_t decode = e.next_decode;  // this step's, unless it stalls
  for (const SequenceId id : plan.paused) {
    if (tracked(id) && e.end_of_slot[id.value()] >= decode)
      set_end(e, id.value(), e.end_of_slot[id.value()] + 1);
  }
  // A preempted sequence may still have its EOS in flight; a later one will be found again after it resumes.
  for (const std::span<const SequenceId> gone : {plan.preempted, plan.aborted}) {
    for (const SequenceId id : gone) {
      if (tracked(id) && e.end_of_slot[id.value()] >= decode) set_end(e, id.value(), -1);
    }
  }
  for (const PrefillWork& w : plan.prefill) {
    if (!w.samples) continue;
    const std::int32_t eos = oracle_.eos_after(w.request);
    const std::int64_t left = eos - w.outputs_before;
    if (eos > 0 && plan.stalls_decodes && left == 1) {
      e.at_once.push_back({step, w.sequence.value()});
    } else if (eos > 0) {
      set_end(e, w.sequence.value(), decode + left - (plan.stalls_decodes ? 2 : 1));
    } else if (tracked(w.sequence)) {
      set_end(e, w.sequence.value(), -1);
    }
  }
}

std::int64_t CostModelExecutor::next_end(Engine& e) {
  while (!e.ends.empty() && e.end_of_slot[e.ends.front().slot] != e.ends.front().step) {
    std::pop_heap(e.ends.begin(), e.ends.end(), later_end);
    e.ends.pop_back();
  }
  return e.ends.empty() ? INT64_MAX / 2 : e.ends.front().step;
}

// Updates from now on up to and with the first one that brings an EOS, when decode steps follow.
std::int64_t CostModelExecutor::updates_until_end(Engine& e) {
  std::int64_t end = next_end(e), updates = 0;
  for (const OpenStep& open : e.open) {
    const std::int64_t step = e.next_update + updates++;
    for (const EndOfSequence& first : e.at_once) {
      if (first.step == step) return updates;
    }
    if (open.decode >= 0 && open.decode == end) return updates;
  }
  return updates + end - e.next_decode + 1;
}

void CostModelExecutor::take_ends(Engine& e, std::int64_t step, std::int64_t decode) {
  e.eos.clear();
  std::erase_if(e.at_once, [&](const EndOfSequence& first) {
    if (first.step == step) e.eos.push_back(SequenceId(first.slot));
    return first.step == step;
  });
  if (decode < 0) return;
  while (next_end(e) == decode) {
    e.eos.push_back(SequenceId(e.ends.front().slot));
    e.end_of_slot[e.ends.front().slot] = -1;
  }
}

}  // namespace orrery
