#include "sim/costed/expert_run.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "costmodel/stages.h"

namespace orrery {

namespace {

constexpr double q20 = 1 << 20;
// Choices drawn for a step, tokens times layers, and the fewest layers. What the layers drawn deviate from
// their expectations is scaled so that the sum over all layers keeps its variance; its mean is that of the
// expectations.
constexpr std::int64_t drawn_choices = 2048;
constexpr std::int32_t fewest_layers = 4;
// Tokens of a step that nobody names (prompts, rows that pad a graph): drawn one by one up to here, where
// that costs less than normals.
constexpr std::int64_t counted_others = 256;
constexpr std::int64_t longest_ahead = 16;
// Of a balancer's window, the last so many that have names are drawn again.
constexpr std::int64_t window_tokens = 65536;
constexpr std::size_t runs_between_looks = 64;

// `tokens`: drawn one by one; others beside them cost a layer as much as the most of them that are.
std::int32_t layers_drawn(std::int32_t layers, std::size_t tokens, bool others) {
  if (others) tokens += counted_others;
  const auto most = static_cast<std::int32_t>(drawn_choices / std::max<std::size_t>(1, tokens));
  return std::min(layers, std::max(fewest_layers, most));
}

}  // namespace

ExpertRun::ExpertRun(const InstanceSpec& spec, const StepPricer& pricer, std::size_t instances,
                     std::size_t first_instance)
    : pricer_(&pricer), spec_(spec.experts), groups_(exchange_groups(spec)), first_(first_instance) {
  if (!spec_.on()) return;
  parts_ = static_cast<double>(spec.expert_ranks() / spec.plan.ep);
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
void ExpertRun::each_drawn(const State& s, LayerRange range, std::int32_t drawn, Each each) const {
  const auto first = static_cast<std::int32_t>(s.step % range.count);
  for (std::int32_t i = 0; i < drawn; ++i)
    each(range.first +
         (first + static_cast<std::int32_t>(std::int64_t{i} * range.count / drawn)) % range.count);
}

// Of a step in halves, the first tokens are in the first.
ExpertRun::Batch ExpertRun::batch(std::size_t id, const State& s, std::int64_t tokens,
                                  std::uint64_t half) const {
  const Instance& instance = instances_[id];
  Batch batch;
  std::int64_t skip = half == 2 ? instance.named - instance.named / 2 : 0;
  const std::int64_t end = half == 1 ? instance.named - instance.named / 2 : instance.named;
  const std::int64_t most = std::min(tokens, end - skip);
  for (const DecodingToken& t : instance.tokens) {
    for (std::int32_t i = 0; i < t.tokens; ++i) {
      if (skip-- > 0) continue;
      if (static_cast<std::int64_t>(batch.keys.size()) == most) break;
      batch.keys.push_back(
          token_key(spec_.seed, t.request.value(), static_cast<std::uint64_t>(t.place + s.ran + i)));
    }
  }
  batch.others = tokens - static_cast<std::int64_t>(batch.keys.size());
  if (batch.others > counted_others) return batch;
  // Requests are counted from 0: none is called so.
  const std::uint64_t nobody = ~static_cast<std::uint64_t>(first_ + id);
  for (std::int64_t i = 0; i < batch.others; ++i)
    batch.keys.push_back(
        token_key(spec_.seed, nobody, static_cast<std::uint64_t>(s.step * 1024 + i) * 4 + half));
  batch.others = 0;
  return batch;
}

RankLoad ExpertRun::drawn_load(std::size_t id, const State& s, std::int32_t layer, std::int64_t tokens,
                               const Batch& batch, std::uint64_t half) const {
  RandomStream random = stream(id, s, layer, half);
  RankLoad load =
      s.loads->layer(layer).sampled(static_cast<std::uint64_t>(layer), batch.keys, batch.others, random);
  load.uneven_tiles = s.loads->load(layer, tokens).uneven_tiles;
  if (log_ == nullptr) return load;
  std::vector<std::uint16_t> chosen(static_cast<std::size_t>(popularity_->per_token()));
  for (const DecodingToken& t : instances_[id].tokens) {
    const std::int64_t place = t.place + s.ran;
    s.loads->layer(layer).demand()->draw(
        token_key(spec_.seed, t.request.value(), static_cast<std::uint64_t>(place)),
        static_cast<std::uint64_t>(layer), chosen);
    log_->chose(t.request, place, layer, chosen);
  }
  return load;
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
  const Batch tokens = batch(instance, s, step.tokens);
  const std::int32_t drawn = layers_drawn(range.count, tokens.keys.size(), tokens.others > 0);
  double deviation = 0;
  each_drawn(s, range, drawn, [&](std::int32_t layer) {
    const RankLoad load = drawn_load(instance, s, layer, step.tokens, tokens);
    deviation += price_(step, load).ns() - l.layer_ns(step, layer, price_);
  });
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
  std::array<std::vector<ExpertTime>, 2> times;
  std::array<Batch, 2> tokens;
  for (const std::size_t h : {0u, 1u}) {
    times[h].assign(loads[h].begin(), loads[h].end());
    tokens[h] = batch(instance, s, work.halves[h].tokens, h + 1);
  }
  const std::int32_t count = l.layers();
  const std::int32_t drawn = layers_drawn(count, tokens[0].keys.size() + tokens[1].keys.size(),
                                          tokens[0].others + tokens[1].others > 0);
  each_drawn(s, stages_.front(), drawn, [&](std::int32_t layer) {
    for (const std::size_t h : {0u, 1u}) {
      const ExpertStep& half = work.halves[h];
      times[h][static_cast<std::size_t>(layer)] =
          price_(half, drawn_load(instance, s, layer, half.tokens, tokens[h], h + 1));
    }
  });
  const double deviation = pricer_->halved_ns(work, {times[0], times[1]}) - expected;
  return expected + deviation * std::sqrt(static_cast<double>(count) / drawn) - first;
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

void ExpertRun::decoding(std::size_t id, std::vector<DecodingToken>& tokens) {
  Instance& instance = instances_[id];
  State& s = instance.state;
  instance.tokens.swap(tokens);
  instance.named = 0;
  for (const DecodingToken& t : instance.tokens) instance.named += t.tokens;
  instance.drawn.clear();
  s.ran = 0;
  s.noted = false;
  // No stretch is open that could still want them.
  instance.runs.resize(s.runs);
  instance.runs.erase(instance.runs.begin(),
                      instance.runs.begin() + static_cast<std::ptrdiff_t>(s.first_run));
  s.runs -= std::exchange(s.first_run, 0);
  if (s.runs % runs_between_looks == 0) forget_unread(instance);
}

// Runs of the window that have so many tokens behind them that nobody will draw theirs.
void ExpertRun::forget_unread(Instance& instance) {
  std::size_t first = instance.runs.size();
  for (std::int64_t behind = 0; first > 0 && behind < window_tokens;) {
    const TokenRun& run = instance.runs[--first];
    behind += run.steps * run.named;
  }
  instance.runs.erase(instance.runs.begin(), instance.runs.begin() + static_cast<std::ptrdiff_t>(first));
  instance.state.runs -= first;
}

void ExpertRun::advance(std::size_t id, std::int64_t tokens) {
  Instance& instance = instances_[id];
  State& s = instance.state;
  s.balance_steps += s.loads->balancedness();
  if (spec_.eplb.moves() && s.rebalance_step - s.step <= spec_.eplb.window_steps) {
    if (s.window.empty() || s.window.back().loads != s.loads) {
      s.window.push_back({s.loads, 0});
      s.noted = false;
    }
    s.window.back().tokens += tokens;
    if (instance.named > 0) note_tokens(instance);
  }
  ++s.ran;
  ++s.step;
}

void ExpertRun::note_tokens(Instance& instance) {
  State& s = instance.state;
  if (!s.noted) {
    instance.runs.resize(s.runs);  // what a stretch took back
    instance.runs.push_back({.tokens = instance.tokens,
                             .named = instance.named,
                             .segment = s.window.size() - 1,
                             .first = s.ran,
                             .steps = 0});
    s.runs = instance.runs.size();
    s.noted = true;
  }
  TokenRun& run = instance.runs[s.runs - 1];
  run.steps = s.ran - run.first + 1;
}

// What a stretch that is cut drew before is drawn no second time.
double ExpertRun::step_ns(std::size_t id, const ExpertWork& work) {
  Instance& instance = instances_[id];
  const State& s = instance.state;
  const auto ran = static_cast<std::size_t>(s.ran);
  if (ran < instance.drawn.size()) return instance.drawn[ran];
  const double ns =
      work.two_batches ? halves_ns(id, s, work) : products_ns(id, s, work.whole, stages_.front());
  if (spec_.sampled && ran == instance.drawn.size()) instance.drawn.push_back(ns);
  return ns;
}

std::int64_t ExpertRun::next(std::size_t id, const ExpertWork& work, SimTime now) {
  State& s = instances_[id].state;
  place(id, now);
  double ns = step_ns(id, work);
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

// The window's tokens that have names, the last of them if they are many: what they chose is drawn again.
ExpertRun::WindowKeys ExpertRun::window_keys(std::size_t id, const State& s) const {
  WindowKeys keys(s.window.size());
  if (!spec_.sampled) return keys;
  const Instance& instance = instances_[id];
  std::int64_t left = window_tokens;
  for (std::size_t r = s.runs; r-- > s.first_run && left > 0;) {
    const TokenRun& run = instance.runs[r];
    for (std::int64_t step = run.steps; step-- > 0 && left > 0;) {
      for (const DecodingToken& t : run.tokens) {
        for (std::int32_t i = 0; i < t.tokens; ++i, --left)
          keys[run.segment].push_back(token_key(spec_.seed, t.request.value(),
                                                static_cast<std::uint64_t>(t.place + run.first + step + i)));
      }
    }
  }
  return keys;
}

// Tokens that chose each expert in the window: the draws of those with names, and of the others their
// expectation, where loads are drawn with the deviation of a count of so many.
std::vector<double> ExpertRun::counts(std::size_t instance, const State& s, std::int32_t layer,
                                      const WindowKeys& keys) const {
  std::vector<double> count(static_cast<std::size_t>(popularity_->experts()), 0), variance(count.size(), 0);
  std::vector<std::uint16_t> chosen(static_cast<std::size_t>(popularity_->per_token()));
  for (std::size_t i = 0; i < s.window.size(); ++i) {
    const Segment& segment = s.window[i];
    const LayerLoads& loads = segment.loads->layer(layer);
    for (const std::uint64_t key : keys[i]) {
      loads.demand()->draw(key, static_cast<std::uint64_t>(layer), chosen);
      for (const std::uint16_t e : chosen) ++count[e];
    }
    const std::span<const double> p = loads.inclusion();
    const double t = std::max(0.0, static_cast<double>(segment.tokens) - static_cast<double>(keys[i].size()));
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
  const WindowKeys keys = window_keys(id, s);
  for (std::int32_t l = 0; l < spec_.layers; ++l) {
    const ExpertPlacement& old = s.loads->placements()[static_cast<std::size_t>(l)];
    const std::vector<double> count = counts(id, s, l, keys);
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
  s.first_run = s.runs;
  s.noted = false;
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
    const StepPricer::ExpertMove layer = pricer_->expert_move(experts * spec_.expert_bytes / parts_, pace);
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

std::int64_t ExpertRun::steps_ahead(std::size_t id) const {
  const std::int64_t most = spec_.sampled ? longest_ahead : INT64_MAX;
  if (!spec_.eplb.moves() || !shares(id)) return most;
  const State& s = instances_[id].state;
  if (s.on_links) return 0;
  return std::min(most, s.rebalance_step - s.step - 1);
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
