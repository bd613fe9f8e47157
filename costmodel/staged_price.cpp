// Prices of an instance with pipeline stages: a pricer for each stage that is unlike the others, whose
// arithmetic is that of one GPU group with fewer layers (costmodel/stages.h).
#include <algorithm>

#include "costmodel/breakdown.h"
#include "costmodel/collective.h"
#include "costmodel/priced_nodes.h"
#include "costmodel/stages.h"

namespace orrery {

namespace {

SimDuration scaled(const Figure<Seconds>& figure, double scale) {
  return SimDuration(round_half_even(figure.value.value() * 1e9 * scale));
}

// Sampled tokens from the last stage to the others, a broadcast of 8 bytes a sequence and, with the V2
// runner, one of two counts (v1/worker/gpu/pp_utils.py; V1: `_pp_broadcast_prev_sampled_token_ids`).
SimDuration tokens_back(const InstanceSpec& spec, const PricerState& state, double scale) {
  const double bytes = 8 * static_cast<double>(spec.engine.settings.max_num_seqs);
  const double broadcasts = spec.engine.runner == "v2" ? 2 : 1;
  double ns = collective_cost(*state.roofline, Collective::send_recv, bytes, 2).ns();
  if (spec.links != nullptr) {
    for (const GroupLinks& group : spec.links->handoff) {
      if (group.crosses())
        ns = std::max(ns, across_nodes_cost(*state.roofline, Collective::send_recv, bytes, group).ns());
    }
  }
  return SimDuration(round_half_even(broadcasts * ns * scale));
}

StageRules rules_of(const InstanceSpec& spec, const PricerState& state, const PriceScales& scales) {
  const PipelineCosts& costs = *spec.engine.pipeline;
  const double links = scales.op[static_cast<std::size_t>(OpClass::collective)];
  return {.stages = spec.plan.pp,
          .cadence = token_cadence(spec),
          .message = scaled(costs.message, scales.host),
          .tokens_back = tokens_back(spec, state, links),
          .empty_wait = scaled(costs.empty_wait, 1),
          .ring = in_a_ring(spec.engine),
          .tells_first = spec.engine.engine == "tensorrt-llm"};
}

// All stages of one step, those alike once.
template <class Each>  // (state, first stage, how many)
void for_each_kind(const StepPricer::State& s, Each each) {
  for (std::size_t i = 0; i < s.stages.size();) {
    std::size_t next = i + 1;
    while (next < s.stages.size() && s.stages[next] == s.stages[i]) ++next;
    each(*s.stages[i], i, next - i);
    i = next;
  }
}

// `experts`: StepShape::expert_q20 by stage; empty = as the pricer expects it.
void price_all(const StepPricer::State& s, StepShape shape, bool samples, StagedTiming& out,
               std::span<const std::int64_t> experts = {}) {
  const PaddedStep padded = s.padding.pad(shape);
  out.stages.clear();
  out.samples = samples;
  for_each_kind(s, [&](const PricerState& stage, std::size_t first, std::size_t count) {
    if (!experts.empty()) shape.expert_q20 = experts[first];
    out.stages.insert(out.stages.end(), count, stage.price_stage(shape, padded, out.host));
  });
}

struct Steady {
  std::int64_t step_ns = 0;
  double bubble = 0;
};

// The recurrence repeats after at most `cadence` steps; the mean over whole multiples of the stages covers
// that.
Steady steady(const StepPricer::State& s, const StagedTiming& timing) {
  const std::int32_t pp = s.rules.stages;
  const int averaged = 4 * pp, steps = 12 * pp + 48;
  StageChain pipeline(s.rules);
  std::vector<StepTimes> open;
  int updated = 0;
  for (int i = 0; i < steps; ++i) {
    for (; i - updated >= s.steps_in_flight; ++updated)
      pipeline.update(timing.host, open[static_cast<std::size_t>(updated)]);
    // In a ring that is full the next place's result is processed before a step is handed on.
    const bool waits = s.rules.ring && i - updated + 1 >= s.steps_in_flight && i > updated;
    AwaitedStep awaited;
    if (waits) awaited = {timing.host, open[static_cast<std::size_t>(updated)]};
    open.push_back(pipeline.begin(timing, pipeline.core_free(), waits ? &awaited : nullptr));
  }
  const SimDuration span =
      open.back().device_end - open[static_cast<std::size_t>(steps - 1 - averaged)].device_end;
  Steady result;
  result.step_ns = (span.ns() + averaged / 2) / averaged;
  result.bubble = 1 - static_cast<double>(timing.total()) * averaged / (static_cast<double>(span.ns()) * pp);
  return result;
}

StepSummary summary_of(const StepPricer::State& s, const StagedTiming& t, const Doubt& doubt) {
  StepSummary b;
  b.timing = t.host;
  b.timing.busy = t.total();
  b.timing.launch = 0;
  for (const StageTiming& stage : t.stages) b.timing.launch = std::max(b.timing.launch, stage.launch);
  b.host_ns = t.host.schedule + t.host.prepare + b.timing.launch + t.host.update;
  StageChain alone(s.rules);
  const StepTimes times = alone.begin(t, SimTime(0));
  b.device_ns = (times.device_end - times.device_begin).ns();
  b.step_ns = steady(s, t).step_ns;
  const double busy = static_cast<double>(b.timing.busy);
  const double waits = static_cast<double>(b.device_ns - b.timing.busy);
  const double device = interval_factor(doubt.log_deviation()), host = interval_factor(s.host_error);
  b.low_ns = std::min(b.device_ns, round_half_even(busy / device + waits / host));
  b.high_ns = std::max(b.device_ns, round_half_even(busy * device + waits * host));
  b.bound = doubt.largest_share(b.device_ns - b.timing.busy);
  return b;
}

std::string name_of(std::size_t first, std::size_t count) {
  const std::string from = std::to_string(first);
  return count == 1 ? "stage " + from : "stages " + from + "-" + std::to_string(first + count - 1);
}

bool samples_in(const StepShape& shape) { return shape.decode_sequences > 0; }

}  // namespace

StageTiming PricerState::price_stage(const StepShape& shape, const PaddedStep& padded,
                                     StepTiming& whole) const {
  whole = price(shape, padded);
  StageTiming t{.launch = whole.launch,
                .first_kernel = whole.first_kernel,
                .busy = whole.busy,
                .last_kernel = whole.last_kernel,
                .handoff = 0};
  if (!handoff_table.empty())
    t.handoff = round_half_even(over_ns(handoff_table, DependsOn::handoff, padded.tokens));
  return t;
}

Status fill_stages(const InstanceSpec& spec, const PriceScales& scales, StepPricer::State& state) {
  const std::int32_t pp = spec.plan.pp;
  std::vector<InstanceSpec> parts;
  for (std::int32_t s = 0; s < pp; ++s) parts.push_back(stage_spec(spec, s));
  ORRERY_TRY_STATUS(state.fill(parts.back(), scales));
  state.rules = rules_of(spec, state, scales);
  for (std::int32_t s = 0; s < pp; ++s) {
    const auto i = static_cast<std::size_t>(s);
    state.layers.push_back(parts[i].model.layers);
    const auto same = std::find_if(parts.begin(), parts.begin() + s,
                                   [&](const InstanceSpec& other) { return alike(other, parts[i]); });
    if (s == pp - 1) {
      state.stages.push_back(&state);
    } else if (same != parts.begin() + s) {
      state.stages.push_back(state.stages[static_cast<std::size_t>(same - parts.begin())]);
    } else {
      auto stage = std::make_unique<PricerState>();
      ORRERY_TRY_STATUS(stage->fill(parts[i], scales));
      state.stages.push_back(stage.get());
      state.others.push_back(std::move(stage));
    }
  }
  return ok_status();
}

std::int32_t StepPricer::stages() const { return std::max(1, state_->rules.stages); }
const StageRules& StepPricer::stage_rules() const { return state_->rules; }

void StepPricer::price_stages(const StepShape& shape, bool samples, StagedTiming& out,
                              std::span<const std::int64_t> experts) const {
  price_all(*state_, shape, samples, out, experts);
}

StepTiming StepPricer::empty_timing(std::int32_t running) const {
  const HostNanoseconds& h = state_->host;
  StepTiming t;
  t.schedule = round_half_even(h.schedule_base + h.schedule_per_sequence * running);
  t.prepare = round_half_even(h.prepare_base);
  t.update = round_half_even(h.update_base);
  t.gap = round_half_even(h.gap);
  return t;
}

StepSummary summarize_stages(const StepPricer::State& s, const StepShape& shape) {
  StagedTiming timing;
  price_all(s, shape, samples_in(shape), timing);
  const PaddedStep padded = s.padding.pad(shape);
  Doubt doubt;
  std::vector<PricedNode> nodes;
  for_each_kind(s, [&](const PricerState& stage, std::size_t first, std::size_t count) {
    const StageTiming& t = timing.stages[first];
    const std::optional<RankLoad> load = mean_load(stage, padded);
    price_nodes(stage, shape, padded, t.busy + t.handoff, load ? &*load : nullptr, nodes);
    doubt.add(stage, nodes, static_cast<double>(count));
  });
  return summary_of(s, timing, doubt);
}

StepBreakdown explain_stages(const StepPricer::State& s, const StepShape& shape) {
  StagedTiming timing;
  price_all(s, shape, samples_in(shape), timing);
  const PaddedStep padded = s.padding.pad(shape);
  StepBreakdown b;
  Doubt doubt;
  std::vector<PricedNode> nodes;
  for_each_kind(s, [&](const PricerState& stage, std::size_t first, std::size_t count) {
    const StageTiming& t = timing.stages[first];
    const auto times = static_cast<std::int64_t>(count);
    const std::optional<RankLoad> load = mean_load(stage, padded);
    price_nodes(stage, shape, padded, t.busy + t.handoff, load ? &*load : nullptr, nodes);
    doubt.add(stage, nodes, static_cast<double>(count));
    for (const PricedNode& priced : nodes) {
      StepInput input = stage.input_of(stage.nodes[priced.node], shape, padded);
      if (load && stage.nodes[priced.node].spec.depends_on == DependsOn::experts) input.load = &*load;
      OpLine line = describe(stage, priced, input);
      line.name = name_of(first, count) + " " + line.name;
      line.count *= times;
      line.time_ns *= times;
      line.flops *= static_cast<double>(count);
      line.bytes *= static_cast<double>(count);
      line.link_bytes *= static_cast<double>(count);
      b.ops.push_back(std::move(line));
    }
    b.stages.push_back({.first = static_cast<std::int32_t>(first),
                        .stages = static_cast<std::int32_t>(count),
                        .layers = s.layers[first],
                        .busy_ns = t.busy,
                        .handoff_ns = t.handoff,
                        .launch_ns = t.launch});
  });
  take(summary_of(s, timing, doubt), padded, b);
  b.bubble = steady(s, timing).bubble;
  return b;
}

}  // namespace orrery
