// What runs over the rows of all ranks, exchanged or gathered, and the price of a step in two halves.
#include <cmath>

#include "costmodel/expert_exchange.h"
#include "costmodel/pricer_state.h"
#include "costmodel/two_batches.h"

namespace orrery {

double PricerState::gathered_ns(const PaddedStep& padded) const {
  double ns = over_ns(gathered_table, DependsOn::gathered, padded.gathered);
  ns += padded.by_sum ? over_ns(by_sum_table, DependsOn::gathered_by_sum, padded.gathered)
                      : over_ns(evenly_table, DependsOn::gathered_evenly, padded.gathered);
  if (exchanges) ns += exchanged_ns(padded);
  if (shares_prompts) ns += context_ns(padded);
  return ns + over_ns(gathered_rows_table, DependsOn::gathered_rows, padded.gathered_rows);
}

// Depends on two numbers of tokens, so there is no table.
double PricerState::exchanged_ns(const PaddedStep& padded) const {
  StepInput input;
  input.tokens = padded.gathered;
  input.own = padded.tokens;
  const DependsOn now = padded.low_latency ? DependsOn::exchanged_low_latency : DependsOn::exchanged_normal;
  double ns = 0;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].spec.depends_on == now && !nodes[i].by_load) ns = plus_node(ns, i, input);
  }
  return ns;
}

namespace {

// Rows of one half, the first of which has the odd one.
void halve_rows(PaddedStep& padded, int half) {
  for (std::int64_t* rows : {&padded.tokens, &padded.gathered, &padded.busiest})
    *rows = half == 0 ? (*rows + 1) / 2 : *rows / 2;
}

}  // namespace

std::array<ExpertStep, 2> PricerState::half_steps(const PaddedStep& padded) const {
  std::array<ExpertStep, 2> steps;
  for (const int h : {0, 1}) {
    PaddedStep half = padded;
    halve_rows(half, h);
    steps[static_cast<std::size_t>(h)] = expert_step(half);
  }
  return steps;
}

void HalfStep::take(const StepShape& shape, const PaddedStep& whole, int half) {
  prefill.clear();
  std::int64_t tokens = 0;
  for (const PrefillChunk& chunk : shape.prefill) tokens += chunk.new_tokens;
  // Decodes come first; the cut may run through a prompt, whose second part then has the first as context.
  const std::int64_t decodes = shape.decode_sequences, middle = (decodes + tokens + 1) / 2;
  const auto part = [&](std::int64_t from, std::int64_t count) {  // of [from, from + count)
    const std::int64_t low = half == 0 ? 0 : middle, high = half == 0 ? middle : decodes + tokens;
    return std::max<std::int64_t>(0, std::min(high, from + count) - std::max(low, from));
  };
  of = shape;
  of.decode_sequences = static_cast<std::int32_t>(part(0, decodes));
  const std::int64_t share = decodes > 0
                                 ? shape.decode_context_tokens / decodes * of.decode_sequences +
                                       shape.decode_context_tokens % decodes * of.decode_sequences / decodes
                                 : 0;
  of.decode_context_tokens = share;
  std::int64_t from = decodes;
  for (const PrefillChunk& chunk : shape.prefill) {
    const std::int64_t mine = part(from, chunk.new_tokens);
    const std::int64_t before = half == 0 ? 0 : chunk.new_tokens - mine;
    if (mine > 0) prefill.push_back({static_cast<std::int32_t>(mine), chunk.context + before});
    from += chunk.new_tokens;
  }
  of.prefill = prefill;
  padded = whole;
  halve_rows(padded, half);
}

double PricerState::half_node_ns(std::size_t node, const HalfStep& half) const {
  if (!takes_part(nodes[node], half.of, half.padded)) return 0;
  const StepInput input = input_of(nodes[node], half.of, half.padded);
  return input.tokens > 0 || !half.of.prefill.empty() ? node_ns(node, input) : 0;
}

// Of one node, halves and the rest, as if nothing were hidden.
double PricerState::in_halves_ns(std::size_t node, const StepShape& shape, const PaddedStep& padded) const {
  const double share = halved_share(nodes[node]);
  const bool traffic = nodes[node].part == LayerPart::dispatch || nodes[node].part == LayerPart::combine;
  double ns = share < 1 ? (1 - share) * node_ns(node, input_of(nodes[node], shape, padded)) : 0;
  for (const int h : {0, 1}) {
    HalfStep half;
    half.take(shape, padded, h);
    if (share > 0) ns += share * half_node_ns(node, half) * (traffic ? 1 : slower_beside_exchange(padded));
  }
  return ns;
}

// Share of a node's uses that runs in halves: those of layers with an exchange.
double PricerState::halved_share(const GraphNode& node) const {
  switch (node.part) {
    case LayerPart::other: return 0;
    case LayerPart::inputs:
    case LayerPart::attention: return static_cast<double>(exchange_layers) / static_cast<double>(all_layers);
    default: return 1;
  }
}

// Kernels of an exchange on multiprocessors of their own leave the others' share to everything else.
double PricerState::slower_beside_exchange(const PaddedStep& padded) const {
  return padded.low_latency ? 1 : 1 / (1 - exchange_units);
}

HalvedStep PricerState::halved(const StepShape& shape, const PaddedStep& padded) const {
  HalvedStep step;
  step.whole =
      sum_rows(padded.rows) + over_ns(gathered_rows_table, DependsOn::gathered_rows, padded.gathered_rows);
  if (padded.mode == GraphMode::none) step.whole += sum_eager(eager_kernels(shape, padded));
  const double slower = slower_beside_exchange(padded), layers = static_cast<double>(exchange_layers);
  step.slower = slower;
  for (const int h : {0, 1}) {
    HalfStep half;
    half.take(shape, padded, h);
    HalfLayer& layer = step.halves[static_cast<std::size_t>(h)];
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const GraphNode& node = nodes[i];
      const double share = halved_share(node);
      if (share == 0 || node.by_load || !takes_part(node, half.of, half.padded)) continue;
      const double ns = half_node_ns(i, half) * share / layers;
      const auto apart = [&] {
        return taken_apart(i, input_of(node, half.of, half.padded), half.padded.low_latency, ns);
      };
      switch (node.part) {
        case LayerPart::inputs: layer.inputs += ns * slower; break;
        case LayerPart::attention: layer.attention += ns * slower; break;
        case LayerPart::shared: layer.shared += ns * slower; break;
        case LayerPart::experts: layer.experts += ns * slower; break;
        case LayerPart::dispatch: layer.dispatch = apart(); break;
        case LayerPart::combine: layer.combine = apart(); break;
        case LayerPart::other: break;
      }
    }
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const DependsOn d = nodes[i].spec.depends_on;
    const bool counted = d == DependsOn::rows || d == DependsOn::gathered_rows || d == DependsOn::eager;
    const double rest = 1 - halved_share(nodes[i]);
    if (counted || rest <= 0 || !takes_part(nodes[i], shape, padded)) continue;
    step.whole += rest * node_ns(i, input_of(nodes[i], shape, padded));
  }
  step.order = !by_phase_batches        ? BatchOrder::at_exchanges
               : !shape.prefill.empty() ? BatchOrder::at_exchanges_shared_later
               : pause_between_layers   ? BatchOrder::in_stages_with_pause
                                        : BatchOrder::in_stages;
  return step;
}

double PricerState::two_batch_ns(const StepShape& shape, const PaddedStep& padded) const {
  const HalvedStep step = halved(shape, padded);
  if (loads_exchanges) return first_halved_ns(step, half_steps(padded));
  return step.whole + two_batches_ns(step.halves, exchange_layers, step.order);
}

double PricerState::halved_ns(const HalvedStep& step,
                              const std::array<std::span<const ExpertTime>, 2>& loads) const {
  std::vector<std::array<HalfLayer, 2>> layers(static_cast<std::size_t>(exchange_layers), step.halves);
  const double share = 1 / static_cast<double>(exchange_layers);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    for (const std::size_t h : {0u, 1u}) {
      const ExpertTime& time = loads[h][l];
      HalfLayer& layer = layers[l][h];
      layer.experts += time.experts * share * step.slower;
      layer.dispatch = {time.dispatch.occupied * share, time.dispatch.behind * share};
      layer.combine = {time.combine.occupied * share, time.combine.behind * share};
    }
  }
  return step.whole + two_batches_ns(layers, step.order);
}

// Low-latency kernels start and store to peers of the node on the compute stream; the network carries the
// rest.
HalfExchange PricerState::taken_apart(std::size_t node, const StepInput& input, bool low_latency,
                                      double ns) const {
  if (!low_latency) return {0, ns};
  const ExchangeShape& shape = *nodes[node].spec.exchange;
  const ExchangeTime time = exchange_time(shape, busiest_rows(shape, input));
  const double occupied = time.ns() > 0 ? std::min(1.0, (time.fixed + time.near) / time.ns()) : 1;
  return {ns * occupied, ns * (1 - occupied)};
}

void PricerState::add_exchange(const InstanceSpec& spec) {
  for (const LayerKind& kind : spec.model.layer_kinds) {
    all_layers += kind.count;
    if (kind.moe) exchange_layers += kind.count;
  }
  by_phase_batches = spec.engine.settings.joint.two_batches.by_phase;
  pause_between_layers = spec.model.architecture == "Qwen3MoeForCausalLM";
  exchange_units = spec.exchange->multiprocessors.value / spec.hardware.compute_units.value;
}

}  // namespace orrery
