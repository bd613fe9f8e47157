#include "sim/costed/expert_run.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "costmodel/stages.h"

namespace orrery {

namespace {

constexpr double q20 = 1 << 20;
// Layers drawn for a step, where loads are sampled. What they deviate from their expectations is scaled so
// that the sum over all layers keeps its variance; its mean is that of the expectations.
constexpr std::int32_t drawn_layers = 4;

}  // namespace

ExpertRun::ExpertRun(const InstanceSpec& spec, const StepPricer& pricer, std::size_t instances,
                     std::size_t first_instance)
    : pricer_(&pricer), spec_(spec.experts), groups_(exchange_groups(spec)), first_(first_instance) {
  if (!spec_.on()) return;
  for (std::int32_t s = 0; s < spec.plan.pp; ++s) {
    const ExpertSpec part = spec.plan.pp > 1 ? stage_spec(spec, s).experts : spec_;
    stages_.push_back({part.first_layer, part.layers});
  }
  popularity_ = std::make_shared<const ExpertPopularity>(
      spec_.popularity, spec_.layers, static_cast<std::int32_t>(spec.model.experts),
      static_cast<std::int32_t>(spec.model.experts_per_token), spec_.seed);
  price_ = [&pricer](const ExpertStep& step, const RankLoad& load) { return pricer.expert_time(step, load); };
  std::vector<ExpertPlacement> placements;
  for (std::int32_t l = 0; l < spec_.layers; ++l)
    placements.push_back(first_placement(spec_, *popularity_, spec.plan.ep, l));
  auto shared = loads(0, std::move(placements));  // until an instance's placement changes
  if (!spec_.moves()) {
    unchanging_.push_back({SimTime(0), 0, shared->balancedness()});
    return;
  }
  Instance first;
  first.state.loads = std::move(shared);
  first.state.rebalance_step = spec_.eplb.first_steps;
  note(first, SimTime(0));
  instances_.assign(instances, first);
}

std::shared_ptr<ExpertLoads> ExpertRun::loads(std::int64_t epoch,
                                              std::vector<ExpertPlacement> placements) const {
  return std::make_shared<ExpertLoads>(*popularity_, epoch, std::move(placements), groups_);
}

void ExpertRun::note(Instance& instance, SimTime at) const {
  State& s = instance.state;
  instance.series.resize(s.samples);  // what a stretch took back
  instance.series.push_back({at, s.step, s.loads->balancedness()});
  s.samples = instance.series.size();
}

void ExpertRun::restore(std::size_t instance, const State& state) { instances_[instance].state = state; }

RandomStream ExpertRun::stream(std::size_t instance, const State& s, std::int32_t layer,
                               std::uint64_t half) const {
  return token_choices(spec_.seed, first_ + instance, static_cast<std::uint64_t>(s.step),
                       static_cast<std::uint64_t>(layer) | (half << 32));
}

// The layers of a range that are drawn for a step: every one has its turn.
template <class Each>
void ExpertRun::each_drawn(const State& s, LayerRange range, Each each) const {
  const std::int32_t drawn = std::min(range.count, drawn_layers);
  const auto first = static_cast<std::int32_t>(s.step % range.count);
  for (std::int32_t i = 0; i < drawn; ++i)
    each(range.first + (first + i * range.count / drawn) % range.count);
}

double ExpertRun::products_ns(std::size_t instance, const State& s, const ExpertStep& step,
                              LayerRange range) const {
  if (range.count == 0) return 0;
  ExpertLoads& l = *s.loads;
  const std::int32_t all = l.layers();
  double expected = 0;
  if (range.count == all) {
    expected = l.expected_ns(step, price_);
  } else {
    for (std::int32_t i = 0; i < range.count; ++i)
      expected += l.layer_ns(step, range.first + i, price_) / all;
  }
  if (!spec_.sampled) return expected;
  double deviation = 0;
  each_drawn(s, range, [&](std::int32_t layer) {
    RandomStream random = stream(instance, s, layer);
    deviation +=
        price_(step, l.layer(layer).sampled(step.tokens, random)).ns() - l.layer_ns(step, layer, price_);
  });
  const double drawn = std::min(range.count, drawn_layers);
  const double sum = expected + deviation * std::sqrt(static_cast<double>(range.count) / drawn) / all;
  return std::max(sum, expected / 4);
}

// How much longer a step in two halves takes than the pricer expects: the schedule of both under each layer's
// loads.
double ExpertRun::halves_ns(std::size_t instance, const State& s, const ExpertWork& work) const {
  ExpertLoads& l = *s.loads;
  const std::array<std::span<const ExpertTime>, 2> loads = l.halves(work.halves, price_);
  const double first = pricer_->first_halved_ns(work);
  const double expected = pricer_->halved_ns(work, loads);
  if (!spec_.sampled) return expected - first;
  std::array<std::vector<ExpertTime>, 2> drawn;
  for (const std::size_t h : {0u, 1u}) drawn[h].assign(loads[h].begin(), loads[h].end());
  each_drawn(s, stages_.front(), [&](std::int32_t layer) {
    for (const std::size_t h : {0u, 1u}) {
      RandomStream random = stream(instance, s, layer, h + 1);
      const ExpertStep& half = work.halves[h];
      drawn[h][static_cast<std::size_t>(layer)] = price_(half, l.layer(layer).sampled(half.tokens, random));
    }
  });
  const double count = l.layers();
  const double deviation = pricer_->halved_ns(work, {drawn[0], drawn[1]}) - expected;
  return expected + deviation * std::sqrt(count / std::min(count, double{drawn_layers})) - first;
}

// Where experts are, and what is asked for, as a step is scheduled.
void ExpertRun::place(std::size_t id, SimTime now) {
  Instance& instance = instances_[id];
  State& s = instance.state;
  const std::int64_t epoch = popularity_->epoch(now);
  if (s.on_links) take_moved(id, s);
  const bool arrived = s.next != nullptr && !s.on_links && now >= s.next_at && s.step >= s.next_step;
  if (!arrived && epoch == s.loads->epoch()) return;
  const ExpertLoads& placed = arrived ? *s.next : *s.loads;
  // Weights still on their way keep their places, whatever the popularity.
  s.loads = arrived && s.next->epoch() == epoch ? s.next : loads(epoch, placed.placements());
  if (arrived) s.next = nullptr;
  note(instance, now);
}

void ExpertRun::advance(std::size_t id, std::int64_t tokens) {
  State& s = instances_[id].state;
  s.balance_steps += s.loads->balancedness();
  if (spec_.eplb.moves() && s.rebalance_step - s.step <= spec_.eplb.window_steps) {
    if (s.window.empty() || s.window.back().loads != s.loads) s.window.push_back({s.loads, 0});
    s.window.back().tokens += tokens;
  }
  ++s.step;
}

std::int64_t ExpertRun::next(std::size_t id, const ExpertWork& work, SimTime now) {
  State& s = instances_[id].state;
  place(id, now);
  double ns = work.two_batches ? halves_ns(id, s, work) : products_ns(id, s, work.whole, stages_.front());
  advance(id, work.whole.tokens);
  if (spec_.eplb.moves() && s.step >= s.rebalance_step && s.next == nullptr) ns += rebalance(id, s, now);
  return round_half_even(ns * q20);
}

void ExpertRun::next(std::size_t id, const ExpertWork& work, SimTime now, std::vector<std::int64_t>& stages) {
  place(id, now);
  const State& s = instances_[id].state;
  stages.clear();
  for (const LayerRange& range : stages_)
    stages.push_back(round_half_even(products_ns(id, s, work.whole, range) * q20));
  advance(id, work.whole.tokens);
}

// Tokens that chose each expert in the window: its expectation, and where loads are drawn the deviation of a
// count of so many tokens.
std::vector<double> ExpertRun::counts(std::size_t instance, const State& s, std::int32_t layer) const {
  std::vector<double> count(static_cast<std::size_t>(popularity_->experts()), 0), variance(count.size(), 0);
  for (const Segment& segment : s.window) {
    const std::span<const double> p = segment.loads->layer(layer).inclusion();
    const double t = static_cast<double>(segment.tokens);
    for (std::size_t e = 0; e < count.size(); ++e) {
      count[e] += t * p[e];
      variance[e] += t * p[e] * (1 - p[e]);
    }
  }
  if (!spec_.sampled) return count;
  RandomStream stream(spec_.seed, RandomPurpose::expert_statistics,
                      (static_cast<std::uint64_t>(first_ + instance) << 40) |
                          (static_cast<std::uint64_t>(layer) << 24) | static_cast<std::uint64_t>(s.rounds));
  for (std::size_t e = 0; e < count.size(); ++e)
    count[e] = std::max(0.0, count[e] + std::sqrt(variance[e]) * stream.normal());
  return count;
}

// Returns what the step has to wait, nanoseconds.
double ExpertRun::rebalance(std::size_t id, State& s, SimTime now) {
  const BalancingSpec& eplb = spec_.eplb;
  s.rebalance_step = s.step + eplb.every_steps;
  double mean = 0, most = 0;
  std::int64_t moved = 0;
  std::vector<double> busiest;  // rank, by layer: experts it receives
  std::vector<ExpertPlacement> placements;
  for (std::int32_t l = 0; l < spec_.layers; ++l) {
    const ExpertPlacement& old = s.loads->placements()[static_cast<std::size_t>(l)];
    const std::vector<double> count = counts(id, s, l);
    const std::vector<std::int32_t> replicas = old.replicas(popularity_->experts());
    std::vector<double> rank(static_cast<std::size_t>(old.ranks), 0);
    for (std::size_t slot = 0; slot < old.expert_of_slot.size(); ++slot) {
      const auto e = static_cast<std::size_t>(old.expert_of_slot[slot]);
      rank[slot / static_cast<std::size_t>(old.slots())] += count[e] / replicas[e];
    }
    for (const double r : rank) mean += r / old.ranks;
    most += *std::max_element(rank.begin(), rank.end());
    const PlacementMove move = move_to(old, balance_experts(count, {.redundant = eplb.redundant,
                                                                    .ranks = old.ranks,
                                                                    .groups = eplb.groups,
                                                                    .nodes = eplb.nodes}));
    busiest.push_back(move.busiest_rank);
    moved += move.moved;
    placements.push_back(move.placement);
  }
  s.window.clear();
  ++s.rounds;
  if (eplb.policy == BalancingSpec::Policy::threshold && mean >= eplb.threshold * most) {
    ++s.kept;
    return 0;
  }
  ++s.rebalanced;
  s.moved += moved;
  s.next = std::make_shared<ExpertLoads>(*s.loads, std::move(placements));
  return move(id, s, busiest, now);
}

// Returns what the step has to wait, nanoseconds.
double ExpertRun::move(std::size_t id, State& s, const std::vector<double>& busiest, SimTime now) {
  const bool overlapped = spec_.eplb.overlapped, shared = shares(id);
  const LinkPace pace = shared && !overlapped ? fabric_->shared()->pace(first_ + id, now) : LinkPace{};
  double ns = 0;
  LinkUse use;
  for (const double experts : busiest) {
    const StepPricer::ExpertMove layer = pricer_->expert_move(experts * spec_.expert_bytes, pace);
    ns += layer.ns;
    use.inside_ns += layer.use.inside_ns;
    use.network_bytes += layer.use.network_bytes;
  }
  const std::int64_t whole = round_half_even(ns);
  s.moving_ns += whole;
  s.next_at = overlapped ? now + SimDuration(whole) : now;
  s.next_step = overlapped ? s.step + spec_.layers : s.step;
  if (overlapped) {
    s.on_links = shared;
    if (shared) fabric_->begin_move(first_ + id, use, now);
    return 0;
  }
  s.stall_ns += whole;
  return ns;
}

bool ExpertRun::shares(std::size_t id) const {
  return fabric_ != nullptr && fabric_->shared() != nullptr && fabric_->shared()->watches(first_ + id);
}

// It takes as long as alone at least.
void ExpertRun::take_moved(std::size_t id, State& s) const {
  const SimTime at = fabric_->moved(first_ + id);
  if (at.is_never()) return;
  s.on_links = false;
  if (at <= s.next_at) return;
  s.moving_ns += (at - s.next_at).ns();
  s.next_at = at;
}

std::int64_t ExpertRun::steps_without_move(std::size_t id) const {
  if (!spec_.eplb.moves() || !shares(id)) return INT64_MAX;
  const State& s = instances_[id].state;
  if (s.on_links) return 0;
  return s.rebalance_step - s.step - 1;
}

void ExpertRun::report(ExpertResult& result) const {
  if (!unchanging_.empty() && !result.on) {
    result.on = true;
    result.series = unchanging_;
    result.balancedness = result.least_balancedness = unchanging_.front().balancedness;
  }
  if (!on()) return;
  double least = result.on ? result.least_balancedness : 1, balanced = 0, steps = 0;
  std::int64_t moved = 0;
  for (const Instance& i : instances_) {
    const State& s = i.state;
    balanced += s.balance_steps;
    steps += static_cast<double>(s.step);
    result.rebalances += s.rebalanced;
    result.looks_without_change += s.kept;
    moved += s.moved;
    result.stall_ns += s.stall_ns;
    result.moving_ns += s.moving_ns;
    for (std::size_t n = 0; n < s.samples; ++n) least = std::min(least, i.series[n].balancedness);
  }
  // Steps of all pools that change; a pool that does not has the balancedness of its first instant.
  const double before = result.changing_steps;
  if (steps > 0) {
    result.balancedness = (result.balancedness * before + balanced) / (before + steps);
    result.changing_steps = before + steps;
  }
  result.least_balancedness = least;
  result.moved_experts += moved;
  result.moved_bytes += static_cast<double>(moved) * spec_.expert_bytes;
  if (!result.on) {
    const Instance& first = instances_.front();
    result.series.assign(first.series.begin(),
                         first.series.begin() + static_cast<std::ptrdiff_t>(first.state.samples));
  }
  result.on = true;
}

}  // namespace orrery
