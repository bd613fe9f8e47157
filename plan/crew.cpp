#include "plan/crew.h"

#include <vector>

#include "plan/parallel.h"

namespace orrery {

Status run_batch(PlanCrew* crew, std::size_t count, int threads, const PlanWork& work) {
  return crew != nullptr ? crew->batch(count, threads, work) : in_parallel(count, threads, work);
}

Status ShardCrew::batch(std::size_t count, int threads, const PlanWork& work) {
  ++batches_;
  pieces_ = count;
  std::vector<std::size_t> own, others;
  for (std::size_t i = 0; i < count; ++i) (of_ > 0 && i % of_ == index_ ? own : others).push_back(i);
  ORRERY_TRY_STATUS(in_parallel(own.size(), threads, [&](std::size_t i) { return work(own[i]); }));
  // Others' results are there, or the work stops before its first simulation.
  may_run_ = false;
  missing_ = 0;
  Status failed = ok_status();
  for (const std::size_t i : others) {
    Status status = work(i);
    if (status.ok()) continue;
    if (status.errors().front().kind == ErrorKind::interrupted)
      ++missing_;
    else if (failed.ok())
      failed = std::move(status);
  }
  may_run_ = true;
  ORRERY_TRY_STATUS(std::move(failed));
  if (missing_ == 0) return ok_status();
  return make_error(ErrorKind::unavailable, std::to_string(missing_) + " of " + std::to_string(count) +
                                                " results of round " + std::to_string(batches_) +
                                                " are other shards' and not here yet");
}

}  // namespace orrery
