// Pipeline stages (`SchedulerPPMixin.event_loop_pp`, managers/scheduler_pp_mixin.py): a ring of
// pp_size + pp_async_batch_depth micro-batches. Each has a running batch and a last batch of its own; queue,
// cache, new-token ratio and the prompt that goes on in chunks are the scheduler's, so that a prompt's next
// chunk is the next micro-batch's, whatever became of the one before. A request decodes in the micro-batch in
// which its prompt ended. When a micro-batch is composed its last result has been processed: there is no
// overlap loop
// (`_pipeline_parallel_overlap_disable`).
#include <utility>

#include "sim/schedulers/sglang.h"

namespace orrery {

const StepPlan& SglangScheduler::go_round() {
  Kind kind = Kind::none;
  for (std::size_t tried = 0; tried <= ring_.size() && !ring_.blocked(); ++tried) {
    enter(ring_.at());
    const std::size_t aborted = aborted_.size();
    kind = run_pass();
    if (kind != Kind::none) break;
    ring_.pass();
    // The loop goes round until somebody can run; what such a pass changed, another may find.
    if (deferred_ || emptied_ || aborted_.size() > aborted) tried = 0;
  }
  finish_plan(kind);
  if (kind != Kind::none) {
    digest_.add(static_cast<std::uint64_t>(current_));
    plan_.hands_on_after_update = ring_.launch();
  }
  return plan_;
}

void SglangScheduler::enter(std::size_t micro_batch) {
  if (micro_batch == current_) return;
  const auto exchange = [&](MicroBatch& m) {
    std::swap(speakers_, m.speakers);
    std::swap(last_batch_, m.last_batch);
    std::swap(fresh_, m.fresh);
    std::swap(running_count_, m.running_count);
    std::swap(batch_is_full_, m.batch_is_full);
    std::swap(running_shrank_, m.running_shrank);
    std::swap(last_batch_had_chunk_, m.had_chunk);
    std::swap(last_batch_mixed_, m.mixed);
  };
  exchange(micro_[current_]);
  exchange(micro_[micro_batch]);
  current_ = micro_batch;
}

}  // namespace orrery
