// Stretches: decode steps of one set in a row, priced by the line that the growing contexts follow.
#include <algorithm>
#include <array>
#include <utility>

#include "base/mutation.h"
#include "sim/costed/cost_model_executor.h"

namespace orrery {

namespace {

constexpr std::size_t stretch_ring = 8;  // more than the steps that any engine has in flight

}  // namespace

std::vector<StepShape> stretch_shapes(const std::vector<RankPlan>& ranks, bool with_experts) {
  std::vector<StepShape> shapes;
  for (const RankPlan& rank : ranks) {
    StepShape shape;
    shape.decode_sequences = rank.decode_sequences;
    shape.decode_context_tokens = rank.decode_context_tokens;
    shape.running = rank.running;
    if (!with_experts) shape.expert_q20 = 0;
    shapes.push_back(shape);
  }
  return shapes;
}

void CostModelExecutor::begin_stretch(Engine& e, const StepPlan& plan, SimTime now) {
  Stretch& s = e.stretch;
  s.planned = std::max<std::int64_t>(1, std::min(plan.repeat, updates_until_end(e)));
  if (experts_.on()) s.planned = std::min(s.planned, experts_.steps_ahead(index_of(e)));
  if (experts_.by_token()) {
    name_tokens(plan);
    experts_.decoding(index_of(e), tokens_);
  }
  s.taken = s.planned;
  s.decodes = plan.decode_sequences;
  s.running = plan.running;
  s.context = plan.decode_context_tokens;
  s.ranks.assign(plan.ranks.begin(), plan.ranks.end());
  s.speed = e.speeds.empty() ? 1 : e.speeds.front();
  s.start = now;
  s.pipeline = e.pipeline;
  s.open = e.open;
  if (experts_.on()) s.experts = experts_.state(index_of(e));
  run_stretch(e, s.planned);
  if (shares_links(index_of(e))) share_stretch(e, s.first_busy, now);
}

// The price of each step of a stretch: the decode line, followed as the context grows, and where loads of
// experts change, what they take in this very step.
struct CostModelExecutor::AlonePrices {
  const StepPricer* pricer;
  std::int32_t decodes, running;
  std::int64_t context;
  ExpertRun* experts;  // null: their price is in the line
  std::size_t instance;
  ExpertWork work = {};
  DecodeLine line = pricer->decode_line(decodes, context, running, experts == nullptr);

  const StepTiming& timing() const { return line.timing; }
  std::int64_t busy(SimTime now) {
    if (context > line.high) line = pricer->decode_line(decodes, context, running, experts == nullptr);
    if (experts == nullptr) return line.busy(context);
    if (work.whole.tokens == 0) {
      StepShape shape;
      shape.decode_sequences = decodes;
      shape.decode_context_tokens = context;
      work = pricer->expert_work(std::span(&shape, 1));
    }
    return line.busy(context, experts->next(instance, work, now));
  }
  void grow() { context += decodes; }
};

// The same for ranks in lockstep: the longest of their lines.
struct CostModelExecutor::JointPrices {
  const StepPricer* pricer;
  std::vector<StepShape> ranks;
  ExpertRun* experts;  // as above
  std::size_t instance;
  ExpertWork work = {};
  std::vector<DecodeLine> lines = pricer->joint_decode_lines(ranks);

  const StepTiming& timing() const { return lines.front().timing; }
  std::int64_t busy(SimTime now) {
    bool left = false;
    for (std::size_t r = 0; r < ranks.size(); ++r)
      left |= ranks[r].decode_sequences > 0 && ranks[r].decode_context_tokens > lines[r].high;
    if (left) lines = pricer->joint_decode_lines(ranks);
    std::int64_t more = 0;
    if (experts != nullptr) {
      // Contexts decide what two halves hide of one another, and nothing else of it.
      if (work.whole.tokens == 0 || work.two_batches) work = pricer->expert_work(ranks);
      more = experts->next(instance, work, now);
    }
    std::int64_t longest = 0;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      if (ranks[r].decode_sequences > 0)
        longest = std::max(longest, lines[r].busy(ranks[r].decode_context_tokens, more));
    }
    return longest;
  }
  void grow() {
    for (StepShape& rank : ranks) rank.decode_context_tokens += rank.decode_sequences;
  }
};

// As many of its steps as were taken.
void CostModelExecutor::finish_stretch(Engine& e) {
  Stretch& s = e.stretch;
  if (s.taken < s.planned) {
    e.pipeline = s.pipeline;
    e.open = s.open;
    if (experts_.on()) experts_.restore(index_of(e), s.experts);
    run_stretch(e, s.taken);
  }
  usage_.prices += static_cast<std::uint64_t>(s.taken);
  usage_.decode.ns += (e.pipeline.device_free() - later(s.start, s.pipeline.device_free())).ns();
  usage_.decode.steps += s.taken;
  usage_.decode.decodes += s.taken * s.decodes;
  usage_.decode.decode_context += s.taken * s.context;
  for (std::size_t r = 0; r < e.lanes.size(); ++r)
    e.lanes[r].run(s.taken, s.ranks.empty() || s.ranks[r].runs);
  s.planned = 0;
}

void CostModelExecutor::run_stretch(Engine& e, std::int64_t steps) {
  const Stretch& s = e.stretch;
  ExpertRun* const experts = experts_.on() ? &experts_ : nullptr;
  if (s.ranks.empty()) {
    return run_steps(e, steps,
                     AlonePrices{.pricer = e.pricer,
                                 .decodes = s.decodes,
                                 .running = s.running,
                                 .context = s.context,
                                 .experts = experts,
                                 .instance = index_of(e)});
  }
  JointPrices prices{.pricer = e.pricer,
                     .ranks = stretch_shapes(s.ranks, experts == nullptr),
                     .experts = experts,
                     .instance = index_of(e)};
  run_steps(e, steps, std::move(prices));
}

// Schedule, launch, update, schedule …: each boundary is the core thread's next chance to do something else.
template <class Prices>
void CostModelExecutor::run_steps(Engine& e, std::int64_t steps, Prices prices) {
  Stretch& s = e.stretch;
  e.updates.clear();
  s.boundaries.clear();
  SimTime now = s.start;
  // The steps open before the stretch stand in e.open; of its own, whose timings differ by `busy` only, which
  // an update does not read, the ring keeps when things happened.
  const std::size_t ahead = e.open.size();
  ORRERY_CHECK(ahead < stretch_ring, "steps in flight");
  std::array<StepTimes, stretch_ring> ring;
  std::array<std::int64_t, stretch_ring> busy{};
  StepTiming timing = prices.timing();
  if (s.speed != 1) timing.last_kernel = slowed(timing.last_kernel, s.speed);
  for (std::int64_t i = 0; i < steps; ++i) {
    timing.busy = prices.busy(now);
    if (s.speed != 1) timing.busy = slowed(timing.busy, s.speed);
    if (i == 0) s.first_busy = timing.busy;
    s.last_busy = timing.busy;
    const std::size_t place = static_cast<std::size_t>(i) % stretch_ring;
    ring[place] = e.pipeline.begin(timing, now);
    busy[place] = timing.busy;
    const std::int64_t own = i - static_cast<std::int64_t>(ahead);  // of the stretch's steps the oldest open
    StepTimes& times = own < 0 ? e.open.front().times : ring[static_cast<std::size_t>(own) % stretch_ring];
    e.pipeline.update(own < 0 ? e.open.front().timing : timing, times);
    e.updates.push_back(times.update_end);
    if (i == 0) e.first_stamp = stamp(times);
    if (i == 1) e.second_stamp = stamp(times);
    if (i + 1 == steps) e.last_stamp = stamp(times);
    if (own < 0) e.open.pop_front();
    now = e.pipeline.core_free();
    s.boundaries.push_back(now);
    if (!ORRERY_MUTANT(stretch_skips_context_growth)) prices.grow();
  }
  for (std::int64_t i = std::max<std::int64_t>(0, steps - static_cast<std::int64_t>(ahead)); i < steps; ++i) {
    const std::size_t place = static_cast<std::size_t>(i) % stretch_ring;
    timing.busy = busy[place];
    e.open.push_back({.timing = timing, .times = ring[place], .prompts_alone = false});
  }
}

}  // namespace orrery
