#include "costmodel/breakdown.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/det_math.h"
#include "costmodel/priced_nodes.h"

namespace orrery {

std::int64_t steady_step_ns(const StepTiming& timing, std::int32_t steps_in_flight, bool launcher_is_core) {
  // The recurrence is a max-plus system: after as many steps as are in flight its increments repeat. The mean
  // over the last eight covers a period of two as well.
  constexpr int steps = 24, averaged = 8;
  ORRERY_CHECK(steps_in_flight >= 1 && steps_in_flight <= steps - averaged, "depth of the pipeline");
  HostPipeline pipeline(launcher_is_core);
  std::array<StepTimes, steps> open{};
  int updated = 0;
  for (int i = 0; i < steps; ++i) {
    for (; i - updated >= steps_in_flight; ++updated)
      pipeline.update(timing, open[static_cast<std::size_t>(updated)]);
    open[static_cast<std::size_t>(i)] = pipeline.begin(timing, pipeline.core_free());
  }
  for (; updated < steps; ++updated) pipeline.update(timing, open[static_cast<std::size_t>(updated)]);
  // The last steps drain without a successor; take the span before them.
  const int last = steps - 1 - steps_in_flight;
  const SimDuration span = open[static_cast<std::size_t>(last)].update_end -
                           open[static_cast<std::size_t>(last - averaged)].update_end;
  return (span.ns() + averaged / 2) / averaged;
}

bool PricerState::takes_part(const GraphNode& node, const StepShape& shape, const PaddedStep& padded) const {
  switch (node.spec.depends_on) {
    case DependsOn::prefill: return !shape.prefill.empty();
    case DependsOn::decode: return shape.decode_sequences > 0;
    case DependsOn::eager: return eager_kernels(shape, padded) > 0;
    case DependsOn::gathered_evenly: return !padded.by_sum;
    case DependsOn::gathered_by_sum: return padded.by_sum;
    case DependsOn::exchanged_low_latency: return padded.low_latency;
    case DependsOn::exchanged_normal: return !padded.low_latency;
    case DependsOn::split_prompts: return padded.split_prompts;
    case DependsOn::whole_step: return !padded.split_prompts;
    case DependsOn::two_batches: return padded.two_batches;
    case DependsOn::side_stream: return beside(shape, padded);
    case DependsOn::early_start: return !padded.two_batches;
    default: return true;
  }
}

StepInput PricerState::input_of(const GraphNode& node, const StepShape& shape,
                                const PaddedStep& padded) const {
  const DependsOn d = node.spec.depends_on;
  const std::int64_t tokens = d == DependsOn::gathered_rows ? padded.gathered_rows
                              : is_gathered(d) || (d == DependsOn::experts && padded.gathered > 0)
                                  ? padded.gathered
                                  : padded.tokens;
  const std::int64_t own = node.by_load ? padded.busiest : padded.tokens;
  return {tokens,
          padded.rows,
          &shape,
          eager_kernels(shape, padded),
          padded.drafting,
          node.by_load && tokens > 0 ? typical_load(tokens) : nullptr,
          own};
}

double interval_factor(double log_deviation) { return det_exp(1.645 * log_deviation); }

std::optional<RankLoad> mean_load(const PricerState& s, const PaddedStep& padded) {
  if (s.expert_loads == nullptr || s.loads_exchanges) return std::nullopt;
  return s.expert_loads->mean_load(
      static_cast<double>(padded.gathered > 0 ? padded.gathered : padded.tokens));
}

void price_nodes(const PricerState& s, const StepShape& shape, const PaddedStep& padded, std::int64_t busy,
                 const RankLoad* load, std::vector<PricedNode>& out) {
  out.clear();
  std::size_t largest = 0, hidden = s.nodes.size();  // hidden: what two halves save
  std::int64_t rest = busy;
  for (std::size_t i = 0; i < s.nodes.size(); ++i) {
    if (!s.takes_part(s.nodes[i], shape, padded)) continue;
    StepInput input = s.input_of(s.nodes[i], shape, padded);
    if (s.nodes[i].spec.depends_on == DependsOn::experts) input.load = load;
    PricedNode priced{i, s.nodes[i].op->cost(input), 0};
    const DependsOn d = s.nodes[i].spec.depends_on;
    priced.ns = round_half_even(d == DependsOn::side_stream   ? -s.hidden_ns(shape, padded)
                                : d == DependsOn::early_start ? -s.early_ns(shape)
                                : padded.two_batches          ? s.in_halves_ns(i, shape, padded)
                                                              : s.weights[i] * priced.cost.ns());
    rest -= priced.ns;
    if (padded.two_batches && s.nodes[i].spec.depends_on == DependsOn::two_batches) hidden = out.size();
    if (!out.empty() && priced.ns > out[largest].ns) largest = out.size();
    out.push_back(priced);
  }
  out[hidden < out.size() ? hidden : largest].ns += rest;
}

namespace {

// One standard deviation of log(time): the table's where one priced it, else that of the class's efficiency.
double error_of(const PricerState& s, const PricedNode& priced) {
  return priced.cost.error > 0 ? priced.cost.error
                               : s.roofline->error(s.nodes[priced.node].op->kernel_class());
}

}  // namespace

void Doubt::add(const PricerState& s, const std::vector<PricedNode>& nodes, double times) {
  for (const PricedNode& priced : nodes) {
    const GraphNode& node = s.nodes[priced.node];
    const double ns = times * static_cast<double>(priced.ns);
    // What a line below zero saves is in doubt beside what it is saved of.
    by_class[static_cast<std::size_t>(node.entry->op_class)] += std::abs(ns) * error_of(s, priced);
    by_bound[static_cast<std::size_t>(priced.cost.bound())] += ns;
    total += ns;
  }
}

double Doubt::log_deviation() const {
  double variance = 0;
  for (const double deviation : by_class) variance += deviation * deviation;
  return total > 0 ? std::sqrt(variance) / total : 0;
}

const char* Doubt::largest_share(std::int64_t waiting) const {
  const auto best = std::max_element(by_bound.begin(), by_bound.end());
  return static_cast<double>(waiting) > *best ? "launch"
                                              : to_string(static_cast<Bound>(best - by_bound.begin()));
}

namespace {

StepSummary summarize_step(const PricerState& s, const StepTiming& t, const std::vector<PricedNode>& nodes) {
  StepSummary b;
  b.timing = t;
  b.device_ns = device_ns_of(t);
  b.host_ns = t.schedule + t.prepare + t.launch + t.update;
  b.step_ns = steady_step_ns(t, s.steps_in_flight, s.launcher_is_core);
  const double busy = static_cast<double>(t.busy);
  const double launch = static_cast<double>(t.launch);
  const double last = static_cast<double>(t.last_kernel);
  Doubt doubt;
  doubt.add(s, nodes, 1);
  const double device_factor = interval_factor(doubt.log_deviation());
  const double host_factor = interval_factor(s.host_error);
  b.low_ns =
      std::min(b.device_ns, round_half_even(std::max(busy / device_factor, launch / host_factor + last)));
  b.high_ns =
      std::max(b.device_ns, round_half_even(std::max(busy * device_factor, launch * host_factor + last)));
  b.bound = doubt.largest_share(b.device_ns - t.busy);
  return b;
}

}  // namespace

OpLine describe(const PricerState& s, const PricedNode& priced, const StepInput& input) {
  const GraphNode& node = s.nodes[priced.node];
  const double count = static_cast<double>(node.count);
  OpLine line;
  line.name = node.name;
  line.op_class = node.entry->op_class;
  line.count = node.count;
  line.flops = priced.cost.flops * count;
  line.bytes = priced.cost.bytes * count;
  line.link_bytes = priced.cost.link_bytes * count;
  line.time_ns = priced.ns;
  line.bound = to_string(priced.cost.bound());
  line.shape = node.op->shape_text(input);
  line.rung = to_string(priced.cost.rung);
  line.hit = to_string(priced.cost.hit);
  line.error = error_of(s, priced);
  const double bound =
      s.roofline->rates().bound_ns(priced.cost.flops, node.spec.format.math, priced.cost.bytes);
  if (priced.cost.ns() > 0) line.achieved = bound / priced.cost.ns();
  return line;
}

StepSummary StepPricer::summarize(const StepShape& shape) const {
  if (!state_->stages.empty()) return summarize_stages(*state_, shape);
  const StepTiming timing = price(shape);
  const PaddedStep padded = state_->padding.pad(shape);
  std::vector<PricedNode> nodes;
  nodes.reserve(state_->nodes.size());
  const std::optional<RankLoad> load = mean_load(*state_, padded);
  price_nodes(*state_, shape, padded, timing.busy, load ? &*load : nullptr, nodes);
  return summarize_step(*state_, timing, nodes);
}

StepBreakdown StepPricer::explain(const StepShape& shape) const {
  if (!state_->stages.empty()) return explain_stages(*state_, shape);
  const StepTiming timing = price(shape);
  const PaddedStep padded = state_->padding.pad(shape);
  std::vector<PricedNode> nodes;
  const std::optional<RankLoad> load = mean_load(*state_, padded);
  price_nodes(*state_, shape, padded, timing.busy, load ? &*load : nullptr, nodes);
  const StepSummary summary = summarize_step(*state_, timing, nodes);
  StepBreakdown b;
  b.ops.reserve(nodes.size());
  for (const PricedNode& priced : nodes) {
    StepInput input = state_->input_of(state_->nodes[priced.node], shape, padded);
    if (load && state_->nodes[priced.node].spec.depends_on == DependsOn::experts) input.load = &*load;
    b.ops.push_back(describe(*state_, priced, input));
  }
  take(summary, padded, b);
  return b;
}

}  // namespace orrery
