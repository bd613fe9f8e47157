#include "costmodel/breakdown.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/det_math.h"
#include "costmodel/pricer_state.h"

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
    for (; i - updated >= steps_in_flight; ++updated) pipeline.update(timing, open[static_cast<std::size_t>(updated)]);
    open[static_cast<std::size_t>(i)] = pipeline.begin(timing, pipeline.core_free());
  }
  for (; updated < steps; ++updated) pipeline.update(timing, open[static_cast<std::size_t>(updated)]);
  // The last steps drain without a successor; take the span before them.
  const int last = steps - 1 - steps_in_flight;
  const SimDuration span = open[static_cast<std::size_t>(last)].update_end -
                           open[static_cast<std::size_t>(last - averaged)].update_end;
  return (span.ns() + averaged / 2) / averaged;
}

double interval_factor(double log_deviation) { return det_exp(1.645 * log_deviation); }

double log_deviation(std::span<const OpLine> lines) {
  std::array<double, op_class_count> by_class{};
  double total = 0;
  for (const OpLine& line : lines) {
    const double ns = static_cast<double>(line.time_ns);
    by_class[static_cast<std::size_t>(line.op_class)] += ns * line.error;
    total += ns;
  }
  double variance = 0;
  for (const double deviation : by_class) variance += deviation * deviation;
  return total > 0 ? std::sqrt(variance) / total : 0;
}

namespace {

bool takes_part(DependsOn depends_on, const StepShape& shape) {
  if (depends_on == DependsOn::prefill) return !shape.prefill.empty();
  if (depends_on == DependsOn::decode) return shape.decode_sequences > 0;
  return true;
}

OpLine make_line(const GraphNode& node, const StepInput& input, const Roofline& roofline, OpCost& cost) {
  cost = node.op->cost(input);
  const double count = static_cast<double>(node.count);
  OpLine line;
  line.name = node.name;
  line.op_class = node.entry->op_class;
  line.count = node.count;
  line.flops = cost.flops * count;
  line.bytes = cost.bytes * count;
  line.link_bytes = cost.link_bytes * count;
  line.bound = to_string(cost.bound());
  line.shape = node.op->shape_text(input);
  line.rung = "roofline";
  line.error = roofline.error(node.op->kernel_class());
  return line;
}

// Gives the rounding rest to the largest line, so that the lines sum to `busy` exactly.
void settle(std::vector<OpLine>& lines, std::int64_t busy) {
  std::int64_t rest = busy;
  OpLine* largest = &lines.front();
  for (OpLine& line : lines) {
    rest -= line.time_ns;
    if (line.time_ns > largest->time_ns) largest = &line;
  }
  largest->time_ns += rest;
}

// Largest share of the device time; what the device waits for launches counts as one.
std::string largest_share(const std::vector<OpLine>& lines, std::int64_t waiting) {
  constexpr std::array<const char*, 4> names{"compute", "memory", "link", "latency"};
  std::array<std::int64_t, 4> share{};
  for (const OpLine& line : lines) {
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (line.bound == names[i]) share[i] += line.time_ns;
    }
  }
  const auto best = std::max_element(share.begin(), share.end());
  return waiting > *best ? "launch" : names[static_cast<std::size_t>(best - share.begin())];
}

}  // namespace

StepBreakdown StepPricer::explain(const StepShape& shape) const {
  const State& s = *state_;
  const PaddedStep padded = s.padding.pad(shape);
  StepBreakdown b;
  b.timing = price(shape);
  b.graph_mode = to_string(padded.mode);
  b.padded_tokens = padded.tokens;
  const StepInput input{padded.tokens, padded.sequences, &shape};
  b.ops.reserve(s.nodes.size());
  for (std::size_t i = 0; i < s.nodes.size(); ++i) {
    if (!takes_part(s.nodes[i].spec.depends_on, shape)) continue;
    OpCost cost;
    b.ops.push_back(make_line(s.nodes[i], input, *s.roofline, cost));
    b.ops.back().time_ns = round_half_even(s.weights[i] * cost.ns());
  }
  settle(b.ops, b.timing.busy);
  const StepTiming& t = b.timing;
  b.device_ns = device_ns_of(t);
  b.host_ns = t.schedule + t.prepare + t.launch + t.update;
  b.step_ns = steady_step_ns(t, s.steps_in_flight, s.launcher_is_core);
  const double busy = static_cast<double>(t.busy);
  const double launch = static_cast<double>(t.launch);
  const double device_factor = interval_factor(log_deviation(b.ops));
  const double host_factor = interval_factor(s.host_error);
  const double last = static_cast<double>(t.last_kernel);
  b.low_ns = std::min(b.device_ns, round_half_even(std::max(busy / device_factor, launch / host_factor + last)));
  b.high_ns = std::max(b.device_ns, round_half_even(std::max(busy * device_factor, launch * host_factor + last)));
  b.bound = largest_share(b.ops, b.device_ns - t.busy);
  return b;
}

}  // namespace orrery
