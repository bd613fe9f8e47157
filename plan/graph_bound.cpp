#include "plan/graph_bound.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "costmodel/energy.h"
#include "plan/bounds.h"
#include "plan/candidates.h"

namespace orrery {

namespace {

// A tenth, for tables that are not monotone, as bounds on the SLO leave it (bounds.cpp).
constexpr double room = 0.9;
// A prompt may be cheaper in chunks, and attention of decodes beside prompts than alone.
constexpr double prompt_room = 0.75;

double busy_ns(const StepPricer& pricer, const StepShape& shape) {
  return static_cast<double>(pricer.summarize(shape).timing.busy);
}

// The cheapest token: of steps of any size, in one prompt or in many short ones. Decodes that ride along with
// prompts pay no more for it.
double token_ns(const StepPricer& pricer) {
  double least = std::numeric_limits<double>::infinity();
  for (std::int32_t tokens = 16; tokens <= 16384; tokens *= 2) {
    for (const std::int32_t each : {16, 256, tokens}) {
      if (each > tokens || tokens / each > 256) continue;
      const std::vector<PrefillChunk> chunks(static_cast<std::size_t>(tokens / each),
                                             {.new_tokens = each, .context = 0});
      least = std::min(least, busy_ns(pricer, {.prefill = chunks}) / tokens);
    }
    least = std::min(least, busy_ns(pricer, {.prefill = {},
                                             .decode_sequences = std::min(tokens, 1024),
                                             .decode_context_tokens = std::min(tokens, 1024)}) /
                                std::min(tokens, 1024));
  }
  return least;
}

// What a token of context adds to a decode, at its least: attention alone.
double context_ns(const StepPricer& pricer) {
  double least = std::numeric_limits<double>::infinity();
  for (std::int32_t n = 1; n <= 1024; n *= 4) {
    const auto at = [&](std::int64_t context) {
      return busy_ns(pricer, {.prefill = {}, .decode_sequences = n, .decode_context_tokens = n * context});
    };
    const double nothing = at(1);
    for (std::int64_t context = 256; context <= 32768; context *= 2)
      least = std::min(least, (at(context) - nothing) / static_cast<double>(n * (context - 1)));
  }
  return std::max(0.0, least);
}

double shortest_step_ns(const StepPricer& pricer) {
  double least = std::numeric_limits<double>::infinity();
  for (const std::int32_t n : {1, 2, 8, 64, 256})
    least =
        std::min(least, busy_ns(pricer, {.prefill = {}, .decode_sequences = n, .decode_context_tokens = n}));
  return least;
}

// The sum of the lightest `share` of them.
double lightest(std::vector<double> values, double share) {
  const auto count = static_cast<std::size_t>(std::floor(share * static_cast<double>(values.size())));
  std::sort(values.begin(), values.end());
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += values[i];
  return sum;
}

// Prompts by powers of the eighth root of two: the price of the shortest in a class stands for all of it.
class LoneLatency {
 public:
  LoneLatency(const StepPricer& pricer, bool prompts_count) : pricer_(pricer), prompts_(prompts_count) {}
  double ms(std::int32_t prompt, std::int32_t output) {
    std::int32_t low = 1;
    while (low + std::max(1, low / 8) <= prompt) low += std::max(1, low / 8);
    auto [place, fresh] = known_.try_emplace(low);
    if (fresh) {
      const PrefillChunk whole{.new_tokens = low, .context = 0};
      place->second.first = prompts_ ? busy_ns(pricer_, {.prefill = std::span(&whole, 1)}) * prompt_room : 0;
      double least = std::numeric_limits<double>::infinity();
      for (std::int32_t n = 1; n <= 256; n *= 4)
        least = std::min(
            least,
            busy_ns(pricer_, {.prefill = {}, .decode_sequences = n, .decode_context_tokens = low + n - 1}));
      place->second.second = least * room;
    }
    return (place->second.first + (output - 1) * place->second.second) * 1e-6;
  }

 private:
  const StepPricer& pricer_;
  bool prompts_;
  std::map<std::int32_t, std::pair<double, double>> known_;
};

}  // namespace

LoadFacts load_facts(const Scenario& any, const std::vector<TraceRequest>& requests) {
  LoadFacts load;
  const WorkloadSpec& workload = any.workload;
  const bool closed = workload.closed_loop_concurrency > 0;
  load.share = any.slo.given ? any.slo.percentile / 100 : 1;
  load.prompts_count = !prompts_can_hit(requests);
  if (requests.empty()) return load;
  const SimTime from = requests.front().arrival + duration_from_seconds(workload.warmup_s);
  load.first_s = from.seconds();
  std::vector<double> arrivals;
  double deadline = 0;
  const bool both = any.slo.given && any.slo.ttft_ms > 0 && any.slo.tpot_ms > 0;
  for (const TraceRequest& r : requests) {
    load.cancels |= r.cancel_after > SimDuration();
    if (!closed && r.arrival < from) continue;
    load.prompts.push_back(r.prompt_tokens);
    load.outputs.push_back(std::max(1, r.output_tokens));
    load.output_tokens += load.outputs.back();
    const double at = (r.arrival - from).seconds();
    arrivals.push_back(at);
    deadline =
        std::max(deadline, at + (any.slo.ttft_ms + any.slo.tpot_ms * (load.outputs.back() - 1)) * 1e-3);
  }
  if (both && !closed) load.deadline_s = deadline;
  const auto answered =
      static_cast<std::size_t>(std::floor(load.share * static_cast<double>(arrivals.size())));
  if (!closed && answered > 0) {
    std::sort(arrivals.begin(), arrivals.end());
    load.arrivals_s = arrivals[answered - 1];
  }
  return load;
}

namespace {

// How many rows' worth of steps a pool's instances run side by side: ranks that have tokens of their own (a
// joint step takes no less than one rank's part of it alone), stages that hold different batches (their times
// add up to the price of a step), engines behind one front end.
double side_by_side(const PoolSpec& pool) {
  const InstanceSpec& instance = pool.instance;
  return static_cast<double>(instance.plan.dp) * static_cast<double>(instance.plan.pp) *
         static_cast<double>(instance.engines) * static_cast<double>(pool.replicas);
}

// Bounds on device time hold for its steps: drafts say several tokens a step, loads of experts that are drawn
// or follow a popularity are priced step by step, and shares of a context divide a prompt otherwise.
bool prices_bound(const InstanceSpec& instance) {
  return !instance.speculation.on() && !instance.experts.on() && instance.plan.cp <= 1;
}

// The device time of the load on a pool, for as long as its instances all work.
double pool_busy_s(const PoolSpec& pool, const StepPricer& pricer, const LoadFacts& load) {
  const double token = token_ns(pricer), context = context_ns(pricer);
  const bool prompts = pool.role != PoolRole::decode, decodes = pool.role != PoolRole::prefill;
  std::vector<double> work;
  for (std::size_t i = 0; i < load.prompts.size(); ++i) {
    const double prompt = load.prompts[i], later = load.outputs[i] - 1;
    double ns = prompts ? (load.prompts_count ? prompt : 1) * token : 0;
    if (decodes) ns += later * token + later * prompt * context * prompt_room;
    work.push_back(ns);
  }
  return lightest(std::move(work), load.share) * 1e-9 * room / side_by_side(pool);
}

// Where pools, stages, ranks or drafts share the work: GPUs and prices are what they are, tokens come no
// faster than they arrive, and each role's pool has to do its part of the load. Everything is of the whole
// deployment, or of one pool's instances where the search counts them.
GraphBound bound_shared(const PlanSpace& space, const Scenario& scenario, const LoadFacts& load) {
  GraphBound bound;
  const std::vector<const PoolSpec*> pools = scenario.pools();
  const bool counted = pools.size() == 1;
  bound.known = true;
  bound.instances = counted ? scenario.pool.replicas : 1;
  const auto instances = static_cast<double>(bound.instances);
  bound.gpus = static_cast<double>(scenario.gpus()) / instances;
  bound.usd_per_hour = usd_per_hour(space, scenario) / instances;
  for (const PoolSpec* pool : pools) {
    if (space.objective == PlanObjective::energy) {
      const auto energy = load_energy(pool->instance.hardware);
      if (energy.ok())
        bound.idle_w += static_cast<double>(pool->gpus()) * energy->idle.value.value() / instances;
    }
    // Of several pools of one role each has a share that nobody knows.
    const bool only =
        std::count_if(pools.begin(), pools.end(), [&](const PoolSpec* other) {
          return other->role == pool->role || other->role == PoolRole::mixed || pool->role == PoolRole::mixed;
        }) == 1;
    if (!only || pool->role == PoolRole::encoder || !prices_bound(pool->instance)) continue;
    const auto pricer = StepPricer::create(pool->instance, scenario.what_if);
    if (pricer.ok()) bound.busy_s = std::max(bound.busy_s, pool_busy_s(*pool, *pricer, load) * instances);
  }
  return bound;
}

}  // namespace

GraphBound bound_graph(const PlanSpace& space, const Scenario& scenario, const LoadFacts& load,
                       const StepPricer& pricer) {
  GraphBound bound;
  const PoolSpec& pool = scenario.pool;
  const auto pools = scenario.pools();
  const bool comes_and_goes =
      std::any_of(pools.begin(), pools.end(), [](const PoolSpec* p) { return p->autoscale.has_value(); });
  if (!scenario.faults.empty() || comes_and_goes || load.cancels || load.prompts.empty()) return bound;
  // Arrivals of a closed loop are not those of the trace, so that the warm-up takes in one knows not whom.
  if (scenario.workload.closed_loop_concurrency > 0 && scenario.workload.warmup_s > 0) return bound;
  if (!one_plain_pool(scenario)) return bound_shared(space, scenario, load);
  bound.known = true;
  bound.instances = pool.replicas;
  bound.gpus = static_cast<double>(pool.gpus()) / pool.replicas;
  bound.usd_per_hour = usd_per_hour(space, scenario) / pool.replicas;
  if (space.objective == PlanObjective::energy) {
    const auto energy = load_energy(pool.instance.hardware);
    if (energy.ok()) bound.idle_w = bound.gpus * energy->idle.value.value();
  }
  bound.sequences = pool.instance.engine.settings.max_num_seqs * pool.instance.engines;
  const double token = token_ns(pricer), context = context_ns(pricer);
  LoneLatency lone(pricer, load.prompts_count);
  std::vector<double> work, latency, tokens;
  for (std::size_t i = 0; i < load.prompts.size(); ++i) {
    const double prompt = load.prompts[i], later = load.outputs[i] - 1;
    work.push_back(((load.prompts_count ? prompt : 1) + later) * token +
                   later * prompt * context * prompt_room);
    latency.push_back(lone.ms(load.prompts[i], load.outputs[i]));
    tokens.push_back(later);
  }
  // Several engines behind one front end share the load.
  bound.busy_s = lightest(std::move(work), load.share) * 1e-9 * room / pool.instance.engines;
  bound.step_s = shortest_step_ns(pricer) * 1e-9 * room;
  bound.tokens = lightest(std::move(tokens), load.share);
  const double count = std::floor(load.share * static_cast<double>(latency.size()));
  bound.latency_ms = count > 0 ? lightest(std::move(latency), load.share) / count : 0;
  return bound;
}

GraphBound weaker(const GraphBound& a, const GraphBound& b) {
  GraphBound out = a;
  out.known = a.known && b.known;
  out.instances = std::min(a.instances, b.instances);
  for (double GraphBound::*field :
       {&GraphBound::gpus, &GraphBound::usd_per_hour, &GraphBound::idle_w, &GraphBound::busy_s,
        &GraphBound::step_s, &GraphBound::tokens, &GraphBound::latency_ms})
    out.*field = std::min(a.*field, b.*field);
  out.sequences = a.sequences == 0 || b.sequences == 0 ? 0 : std::max(a.sequences, b.sequences);
  return out;
}

ObjectiveBound bound_objective(const PlanSpace& space, const LoadFacts& load, const GraphBound& graph,
                               std::int64_t sequences, std::int64_t least) {
  ObjectiveBound out;
  if (!graph.known) return out;
  out.known = true;
  const std::int64_t most = sequences > 0 ? sequences : graph.sequences;
  // A step gives every sequence in it one token, and takes at least as long as the shortest.
  const double steps = most > 0 ? graph.tokens / static_cast<double>(most) : 0;
  const double busy = std::max(graph.busy_s, steps * graph.step_s);
  out.instances = graph.instances;
  if (space.most_replicas > 0) {
    out.instances = 1;
    if (load.deadline_s > 0)
      out.instances = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(busy / load.deadline_s)));
    out.instances = std::max(out.instances, least);
  }
  const double instances = static_cast<double>(out.instances), gpus = instances * graph.gpus;
  // Some more instances may end a load sooner that one cannot keep up with: then only arrivals bound it.
  const double span = space.most_replicas > 0 ? load.arrivals_s : std::max(load.arrivals_s, busy / instances);
  const double most_rate = span > 0 ? load.output_tokens / span : std::numeric_limits<double>::infinity();
  const double most_requests =
      span > 0 ? static_cast<double>(load.prompts.size()) / span : std::numeric_limits<double>::infinity();
  switch (space.objective) {
    case PlanObjective::gpus: out.objective = gpus; break;
    case PlanObjective::cost: out.objective = instances * graph.usd_per_hour / 3600 / most_rate * 1e6; break;
    case PlanObjective::throughput: out.objective = -most_rate / gpus; break;
    case PlanObjective::latency: out.objective = graph.latency_ms; break;
    case PlanObjective::goodput: out.objective = -most_requests / gpus; break;
    // No board draws less than an idle one, for as long as requests arrive.
    case PlanObjective::energy: out.objective = instances * graph.idle_w / most_rate; break;
    case PlanObjective::rate: out.known = false; break;
  }
  return out;
}

std::int64_t most_instances(const PlanSpace& space, const ObjectiveBound& bound,
                            std::optional<double> limit) {
  constexpr std::int64_t any = INT64_MAX;
  if (!limit || !bound.known || space.most_replicas == 0) return any;
  const double instances = static_cast<double>(bound.instances);
  double most = 0;
  switch (space.objective) {
    case PlanObjective::gpus:
    case PlanObjective::energy:
    case PlanObjective::cost: most = *limit / (bound.objective / instances); break;  // grows with them
    case PlanObjective::throughput:
    case PlanObjective::goodput: most = bound.objective * instances / *limit; break;  // shrinks with them
    case PlanObjective::latency:
    case PlanObjective::rate: return any;
  }
  return most < 1e9 ? std::max(bound.instances, static_cast<std::int64_t>(most * (1 + 1e-9))) : any;
}

}  // namespace orrery
