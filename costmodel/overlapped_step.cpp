// What runs side by side in a step, as what it hides: shared experts on a stream of their own, and kernels
// that start while the one before them ends (costmodel/overlap.h).
#include <algorithm>

#include "costmodel/expert_exchange.h"
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

// Kernels of a captured chain are launched early one after the other; what a table timed back to back, with
// the engine's default, already has it.
bool starts_early(const GraphNode& node, const OpCost& cost) {
  return node.entry->launches > 0 && node.entry->op_class != OpClass::collective &&
         cost.rung == Rung::roofline;
}

}  // namespace

// Two branches of a layer between a fork and a join. Neither is shorter than alone, and what both move and
// compute is not done faster than the part can, or than one of them does it alone where that is more:
// branches bound by one resource gain their starts and idle units only.
double PricerState::Branches::hidden(double bandwidth) const {
  const double serial = shared.ns + routed.ns;
  if (shared.ns <= 0 || routed.ns <= 0) return 0;
  const auto together = [&](double of_shared, double of_routed, double reached) {
    return (of_shared + of_routed) / std::max({reached, of_shared / shared.ns, of_routed / routed.ns});
  };
  const double side_by_side =
      std::max({shared.ns * slower, routed.ns, together(shared.memory, routed.memory, bandwidth),
                together(shared.compute, routed.compute, 1)});
  return std::max(0.0, std::min(serial - side_by_side, shared.room) - fork_join);
}

// What of a product's time others find units in. Libraries fill the units with one wave of tiles where they
// can; kernels of the choice of experts, a block a row, run on what is left, and where more than a few blocks
// share a unit they take longer than what they hide (docs/overlap.md).
double PricerState::room_beside(const GraphNode& node, const StepInput& input, double ns) const {
  constexpr double blocks_a_unit = 7;
  if (node.spec.n == 0 || input.tokens == 0) return ns;
  const std::int64_t units = roofline->units();
  std::int64_t tiles = 0;
  for (const std::int64_t columns : {64, 96, 128, 176, 192, 256}) {
    for (const std::int64_t rows : {64, 128, 256}) {
      const std::int64_t n = ((node.spec.n + columns - 1) / columns) * ((input.tokens + rows - 1) / rows);
      if (n <= units) tiles = std::max(tiles, n);
    }
  }
  const auto idle = static_cast<double>(tiles > 0 ? units - tiles : 0);
  return ns * std::min(1.0, blocks_a_unit * idle / static_cast<double>(input.tokens));
}

void PricerState::add_branch(const GraphNode& node, double weight, const StepInput& input,
                             Branches& sum) const {
  const OpCost cost = node.op->cost(input);
  Branches::Side& to = node.branch == Branch::shared ? sum.shared : sum.routed;
  to.ns += weight * cost.ns();
  to.room += weight * (cost.flops > 0 && !exchanges ? room_beside(node, input, cost.ns()) : cost.ns());
  to.memory += weight * cost.bytes / roofline->bandwidth();
  if (cost.flops <= 0 || !roofline->has_math(node.spec.format.math)) return;
  const double best = roofline->efficiency(roofline->gemm_class(node.spec.format));
  if (best > 0) to.compute += weight * cost.flops / (roofline->matrix_rate(node.spec.format.math) * best);
}

bool PricerState::beside(const StepShape&, const PaddedStep& padded) const {
  if (!side.on || padded.two_batches) return false;
  if (side.full_graphs_only && !exchanges && padded.mode != GraphMode::full) return false;
  const std::int64_t rows = (padded.tokens + side_parts - 1) / side_parts;
  return exchanges || side.most_tokens == 0 || rows <= side.most_tokens;
}

double PricerState::hidden_ns(const StepShape& shape, const PaddedStep& padded) const {
  if (!beside(shape, padded)) return 0;
  if (padded.gathered > 0 || hidden_table.empty()) return reckon_hidden(shape, padded);
  return hidden_table.at(padded.tokens, [&](std::int64_t tokens) {
    PaddedStep alone;
    alone.tokens = tokens;
    return reckon_hidden({}, alone);
  });
}

double PricerState::reckon_hidden(const StepShape& shape, const PaddedStep& padded) const {
  Branches sum;
  sum.fork_join = side_fork_join;
  const bool combine_only = exchanges && side.exchanged == BesideExchange::combine;
  if (exchanges) sum.slower = slower_beside_exchange(padded);
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const GraphNode& node = nodes[i];
    if (node.branch == Branch::none || !takes_part(node, shape, padded)) continue;
    const StepInput input = input_of(node, shape, padded);
    if (!combine_only || node.branch == Branch::shared) {
      add_branch(node, weights[i], input, sum);
    } else if (node.part == LayerPart::combine) {  // what stands on the network, or on SMs of its own
      sum.routed.ns += taken_apart(i, input, padded.low_latency, node_ns(i, input)).behind;
    }
  }
  return sum.hidden(side.bandwidth.value);
}

double PricerState::early_ns(const StepShape& shape) const {
  return early.always + (shape.prefill.empty() ? 0 : early.prefill) +
         (shape.decode_sequences > 0 ? early.decode : 0);
}

// Which kernels start early is asked once, at a step of one prompt and one decode. Not those that the side
// stream hides, nor norms that went into all-reduces, nor what a step copies in before its graph; none saves
// more than its start.
void PricerState::add_early(const InstanceSpec& spec) {
  if (!spec.engine.overlap.launch.on) return;
  const double saved =
      std::min(spec.engine.overlap.launch.saved.value.value() * 1e9, roofline->kernel_floor_ns());
  const PrefillChunk chunk{16, 0};
  StepShape shape;
  shape.prefill = std::span<const PrefillChunk>(&chunk, 1);
  shape.decode_sequences = 1;
  shape.decode_context_tokens = 64;
  const StepInput input{17, 2, &shape, 0, 0, nullptr, 17};
  std::int64_t fused = 0;
  for (const GraphNode& node : nodes)
    if (node.name == "fused_all_reduce") fused += node.count;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const GraphNode& node = nodes[i];
    const DependsOn d = node.spec.depends_on;
    if (node.draft || d == DependsOn::drafting || d == DependsOn::handoff || d == DependsOn::eager) continue;
    if (node.entry->launches == 0 || node.count == 0 || node.name == "step_inputs") continue;
    if (side.on && node.branch == Branch::shared) continue;
    std::int64_t kernels = node.kernels();
    if (node.name == "input_norm" || node.name == "post_norm" || node.name == "final_norm") {
      const std::int64_t gone = std::min(fused, node.count);
      fused -= gone;
      kernels -= gone;
    }
    if (!starts_early(node, node.op->cost(input))) continue;
    const double scale = std::min(1.0, weights[i] / static_cast<double>(node.count));
    const double ns = static_cast<double>(kernels) * saved * scale;
    (d == DependsOn::prefill ? early.prefill : d == DependsOn::decode ? early.decode : early.always) += ns;
  }
}

void PricerState::add_side_stream(const InstanceSpec& spec) {
  side = spec.engine.overlap.shared;
  if (exchanges && side.exchanged == BesideExchange::nothing) side.on = false;
  if (!side.on) return;
  side_parts = spec.splits_rows() ? spec.plan.tp : 1;
  std::int64_t layers = 0;
  for (const GraphNode& node : nodes) {
    if (node.branch == Branch::shared && node.name.ends_with("down_proj")) layers += node.count;
  }
  side_fork_join = side.fork_join.value.value() * 1e9 * static_cast<double>(layers);
  if (layers == 0) side.on = false;
  // By tokens only where nothing else decides: not where other ranks' rows, or a prompt's other parts, count.
  if (!side.on || exchanges || padding.ranks() > 1 || spec.engine.settings.context.shares_prompts()) return;
  hidden_table = PriceTable::create();
}

}  // namespace orrery
