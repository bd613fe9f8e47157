// What the popularity of experts decides of a step's price: their products, and where rows are exchanged by
// point-to-point kernels the ways there and back and what passes over the rows between them.
#include <algorithm>
#include <string_view>

#include "costmodel/expert_exchange.h"
#include "costmodel/pricer_state.h"

namespace orrery {

namespace {

constexpr std::int64_t table_limit = 8192;  // tokens up to here are looked up

bool between_exchanges(LayerPart part) {
  return part == LayerPart::dispatch || part == LayerPart::experts || part == LayerPart::combine;
}

}  // namespace

ExchangeGroups exchange_groups(const InstanceSpec& spec) {
  if (spec.exchange == nullptr) return {};
  const MaskedExperts& masked = spec.exchange->masked;
  return {.ranks_of_node = std::min(gpus_of_node, spec.plan.ep),
          .by_rank = spec.engine.settings.joint.exchange != ExpertExchange::low_latency,
          .tile_rows = masked.present() ? masked.rows.value : 0};
}

ExpertTime PricerState::expert_time(const ExpertStep& step, const RankLoad& load) const {
  StepInput input{step.tokens, 0, nullptr, 0};
  input.own = step.own;
  input.load = &load;
  ExpertTime time;
  if (!loads_exchanges) {
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (nodes[i].spec.depends_on == DependsOn::experts) time.experts = plus_node(time.experts, i, input);
    }
    return time;
  }
  const DependsOn other = step.low_latency ? DependsOn::exchanged_normal : DependsOn::exchanged_low_latency;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (!nodes[i].by_load || nodes[i].spec.depends_on == other) continue;
    if (nodes[i].part == LayerPart::experts) {
      time.experts = plus_node(time.experts, i, input);
    } else {
      (nodes[i].part == LayerPart::dispatch ? time.dispatch : time.combine) =
          taken_apart(i, input, step.low_latency, node_ns(i, input));
    }
  }
  return time;
}

ExpertStep PricerState::expert_step(const PaddedStep& padded) const {
  return {.tokens = padded.gathered > 0 ? padded.gathered : padded.tokens,
          .own = loads_exchanges ? std::max<std::int64_t>(1, padded.busiest) : 0,
          .low_latency = loads_exchanges && padded.low_latency};
}

double PricerState::experts_ns(const PaddedStep& padded) const {
  const ExpertStep step = expert_step(padded);
  if (loads_exchanges) {
    const std::lock_guard lock(loads_guard);
    return expert_loads->expected_ns(step, expert_price());
  }
  const auto i = static_cast<std::size_t>(step.tokens);
  if (i < expert_table.size()) return expert_table[i];
  return expert_time(step, expert_loads->mean_load(static_cast<double>(step.tokens))).ns();
}

double PricerState::first_halved_ns(const HalvedStep& step, const std::array<ExpertStep, 2>& halves) const {
  const std::lock_guard lock(loads_guard);
  return halved_ns(step, expert_loads->halves(halves, expert_price()));
}

const RankLoad* PricerState::typical_load(std::int64_t tokens) const {
  const std::lock_guard lock(loads_guard);
  return &expert_loads->typical(tokens);
}

// The drafting network's experts stay uniform: their popularity is not the model's.
void PricerState::add_experts(const InstanceSpec& spec) {
  const ExchangeGroups groups = exchange_groups(spec);
  for (GraphNode& node : nodes) {
    const std::string_view op = node.entry->name;
    if (node.draft) continue;
    if (groups.on()) {
      node.by_load = between_exchanges(node.part);
    } else if (op == "grouped_gemm" || op == "fused_experts") {
      node.spec.depends_on = DependsOn::experts;
    }
  }
  const ExpertSpec& e = spec.experts;
  expert_ranks = spec.plan.ep;
  loads_exchanges = groups.on();
  const ExpertPopularity popularity(e.popularity, e.all_layers, static_cast<std::int32_t>(spec.model.experts),
                                    static_cast<std::int32_t>(spec.model.experts_per_token), e.seed);
  std::vector<ExpertPlacement> placements;
  for (std::int32_t l = 0; l < e.layers; ++l)
    placements.push_back(first_placement(e, popularity, expert_ranks, e.first_layer + l));
  expert_loads = std::make_shared<ExpertLoads>(popularity, 0, std::move(placements), groups, e.first_layer);
  layers_of_all = static_cast<double>(e.all_layers) / static_cast<double>(e.layers);
  // A run whose loads change asks for each step's; of joint steps there are too many sizes to price them all.
  const std::int32_t ranks = padding.ranks();
  if (groups.on() || (ranks > 1 && e.moves())) return;
  const std::int64_t most =
      std::max(padding.largest(),
               std::min<std::int64_t>(ranks * spec.engine.settings.max_num_batched_tokens, table_limit));
  const ExpertPrice price = expert_price();
  std::vector<double> table(static_cast<std::size_t>(most) + 1);
  for (std::int64_t t = 1; t <= most; ++t)
    table[static_cast<std::size_t>(t)] = expert_loads->expected_ns({.tokens = t}, price);
  expert_table = std::move(table);
}

// Of pipeline stages, whose layers with experts cost the same: as one of them would be with the layers of
// all.
ExpertTime StepPricer::expert_time(const ExpertStep& step, const RankLoad& load) const {
  if (state_->stages.empty()) return state_->expert_time(step, load);
  const auto stage = std::find_if(state_->stages.begin(), state_->stages.end(),
                                  [](const PricerState* s) { return s->expert_loads != nullptr; });
  ORRERY_CHECK(stage != state_->stages.end(), "some stage has experts");
  return {.experts = (*stage)->expert_time(step, load).experts * (*stage)->layers_of_all,
          .dispatch = {},
          .combine = {}};
}

// A step in halves is as long as the rank whose attention has most to read.
ExpertWork StepPricer::expert_work(std::span<const StepShape> ranks) const {
  const auto before = [](const StepShape& a, const StepShape& b) {
    const auto work = [](const StepShape& s) {
      std::int64_t sum = s.decode_context_tokens + s.decode_sequences;
      for (const PrefillChunk& chunk : s.prefill) sum += chunk.context + chunk.new_tokens;
      return sum;
    };
    return work(a) < work(b);
  };
  const StepShape& most = *std::max_element(ranks.begin(), ranks.end(), before);
  const PaddedStep padded =
      ranks.size() > 1 ? state_->padding.pad(most, state_->padding.join(ranks)) : state_->padding.pad(most);
  ExpertWork work;
  work.whole = state_->expert_step(padded);
  work.two_batches = padded.two_batches;
  if (!work.two_batches) return work;
  work.halved = state_->halved(most, padded);
  work.halves = state_->half_steps(padded);
  return work;
}

double StepPricer::halved_ns(const ExpertWork& work,
                             const std::array<std::span<const ExpertTime>, 2>& loads) const {
  return state_->halved_ns(work.halved, loads);
}

double StepPricer::first_halved_ns(const ExpertWork& work) const {
  return state_->first_halved_ns(work.halved, work.halves);
}

}  // namespace orrery
