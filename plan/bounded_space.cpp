#include "plan/bounded_space.h"

#include <algorithm>
#include <ctime>

#include "plan/axes.h"
#include "plan/parallel.h"
#include "plan/workload_mix.h"

namespace orrery {

BoundedSpace::BoundedSpace(const PlanSpace& space, const SearchOptions& options)
    : space_(space), options_(options), list_(combinations(space)),
      reader_(space, list_, options.threads, options.keep_going, !options.exhaustive),
      bounds_(list_.all.size()) {
  std::map<std::string, std::size_t> by_name;
  for (const Candidate& candidate : list_.all) {
    const auto [place, fresh] = by_name.try_emplace(graph_name(candidate), graphs_.size());
    if (fresh) graphs_.emplace_back();
    graphs_[place->second].members.push_back(candidate.index);
  }
}

// Of every graph the first member that is a scenario, and the last; where none is, all of them.
Status BoundedSpace::read_graphs() {
  for (const bool forwards : {true, false}) {
    std::vector<bool> found(graphs_.size(), false);
    for (std::size_t tried = 0;; ++tried) {
      std::vector<std::size_t> next;
      for (std::size_t g = 0; g < graphs_.size(); ++g) {
        const std::vector<std::size_t>& members = graphs_[g].members;
        const std::size_t count = members.size();
        const auto at = [&](std::size_t k) { return members[forwards ? k : count - 1 - k]; };
        if (tried > 0 && tried <= count && list_.all[at(tried - 1)].scenario != nullptr) found[g] = true;
        if (!found[g] && tried < count) next.push_back(at(tried));
      }
      if (next.empty()) break;
      ORRERY_TRY_STATUS(reader_.read(next));
    }
    if (forwards) ORRERY_TRY_STATUS(reader_.check());
  }
  return ok_status();
}

Status BoundedSpace::bound_graphs() {
  return in_parallel(graphs_.size(), options_.threads, [&](std::size_t g) -> Status {
    Graph& graph = graphs_[g];
    std::string beyond;
    bool all_beyond = true;
    for (const std::size_t i : graph.members) {
      Candidate& candidate = list_.all[i];
      if (!candidate.read || (candidate.scenario == nullptr && candidate.rejected != RejectedBy::bound))
        continue;
      if (candidate.rejected == RejectedBy::bound) {
        if (beyond.empty()) beyond = candidate.reason;
        continue;
      }
      all_beyond = false;
      const PriceTableScope scope(reader_.tables(), graph_name(candidate));
      auto pricer = StepPricer::create(candidate.scenario->pool.instance, candidate.scenario->what_if);
      if (!pricer.ok()) continue;  // said when it was looked at closer
      const bool first = graph.bounds.empty();
      for (std::size_t w = 0; w < loads_.size(); ++w) {
        const GraphBound bound = bound_graph(space_, candidate.under(w), loads_[w], *pricer);
        if (first)
          graph.bounds.push_back(bound);
        else
          graph.bounds[w] = weaker(graph.bounds[w], bound);
      }
    }
    if (all_beyond) graph.beyond = beyond;
    return ok_status();
  });
}

void BoundedSpace::bound_candidates() {
  const std::clock_t start = std::clock();
  for (const Graph& graph : graphs_) {
    for (const std::size_t i : graph.members) {
      Candidate& candidate = list_.all[i];
      if (candidate.rejected != RejectedBy::nothing) continue;
      if (!graph.beyond.empty()) {
        reject(candidate, RejectedBy::bound, graph.beyond);
        continue;
      }
      if (graph.bounds.empty()) continue;
      const std::int64_t sequences = own_sequences(candidate);
      bounds_[i] = loads_.size() == 1 ? bound_objective(space_, loads_[0], graph.bounds[0], sequences)
                                      : combined_bound(space_, loads_, graph.bounds, sequences);
    }
  }
  bounding_s_ = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

Status BoundedSpace::make() {
  ORRERY_TRY_STATUS(read_graphs());
  ORRERY_TRY(requests, reader_.requests());
  requests_ = requests;
  if (requests_.empty()) return ok_status();
  std::vector<std::size_t> read;
  for (const Candidate& candidate : list_.all) {
    if (candidate.read) read.push_back(candidate.index);
  }
  const auto any = std::find_if(list_.all.begin(), list_.all.end(),
                                [](const Candidate& c) { return c.scenario != nullptr; });
  for (std::size_t w = 0; w < requests_.size(); ++w)
    loads_.push_back(load_facts(any->under(w), *requests_[w]));
  ORRERY_TRY_STATUS(reader_.look_closer(read));
  ORRERY_TRY_STATUS(bound_graphs());
  bound_candidates();
  return ok_status();
}

std::vector<std::size_t> BoundedSpace::by_bound() const {
  std::vector<std::size_t> order;
  for (const Candidate& candidate : list_.all) {
    if (candidate.rejected == RejectedBy::nothing) order.push_back(candidate.index);
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const ObjectiveBound &x = bounds_[a], &y = bounds_[b];
    return x.known != y.known ? x.known : x.objective < y.objective;
  });
  return order;
}

Result<BoundsOnly> bound_plans(const PlanSpace& space, const SearchOptions& options) {
  BoundedSpace bounded(space, options);
  ORRERY_TRY_STATUS(bounded.make());
  BoundsOnly out;
  out.candidates = bounded.list().all.size();
  out.graphs = bounded.graphs();
  out.seconds = bounded.bounding_s();
  for (const Candidate& candidate : bounded.list().all) {
    if (candidate.rejected != RejectedBy::nothing) {
      ++out.rejected;
      continue;
    }
    const ObjectiveBound& bound = bounded.bound(candidate.index);
    if (!bound.known) continue;
    out.best = out.bounded == 0 ? bound.objective : std::min(out.best, bound.objective);
    out.worst = out.bounded == 0 ? bound.objective : std::max(out.worst, bound.objective);
    ++out.bounded;
  }
  return out;
}

}  // namespace orrery
