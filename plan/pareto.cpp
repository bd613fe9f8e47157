#include "plan/pareto.h"

#include <algorithm>

namespace orrery {

namespace {

bool dominates(const PlanScore& a, const PlanScore& b) {
  const bool nowhere_worse =
      a.gpus <= b.gpus && a.mean_e2e_ms <= b.mean_e2e_ms && a.output_tokens_per_s >= b.output_tokens_per_s;
  return nowhere_worse &&
         (a.gpus < b.gpus || a.mean_e2e_ms < b.mean_e2e_ms || a.output_tokens_per_s > b.output_tokens_per_s);
}

}  // namespace

std::vector<PlanEntry> pareto_front(const PlanSearch& search) {
  std::vector<PlanEntry> all;
  for (const Finalist& finalist : search.finalists) all.push_back(finalist.entry);
  all.insert(all.end(), search.left.begin(), search.left.end());
  std::erase_if(all, [&](const PlanEntry& e) { return e.requests != search.requests || !e.score.meets; });
  std::vector<PlanEntry> front;
  for (const PlanEntry& one : all) {
    if (std::none_of(all.begin(), all.end(),
                     [&](const PlanEntry& other) { return dominates(other.score, one.score); }))
      front.push_back(one);
  }
  std::sort(front.begin(), front.end(), [](const PlanEntry& a, const PlanEntry& b) {
    if (a.score.gpus != b.score.gpus) return a.score.gpus < b.score.gpus;
    if (a.score.mean_e2e_ms != b.score.mean_e2e_ms) return a.score.mean_e2e_ms < b.score.mean_e2e_ms;
    return a.candidate < b.candidate;
  });
  return front;
}

}  // namespace orrery
