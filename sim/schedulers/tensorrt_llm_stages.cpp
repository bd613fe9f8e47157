// Pipeline stages (`PyExecutor._executor_loop_pp`, pyexecutor/py_executor.py; §1.3 of
// ../shared/reference/tensorrt_llm_1_2.md): a ring of pp_size micro-batches. Each turn schedules over all
// active requests, of which up to max_batch_size · pp_size there are. Who has a row in flight is passed over
// (it holds its blocks, and counts for the capacity scheduler); of a prompt only the last chunk counts as in
// flight, so that chunks follow one another through the micro-batches. When a place is composed the result of
// the batch that it had is processed.
#include "sim/schedulers/tensorrt_llm.h"

namespace orrery {

const StepPlan& TensorRtLlmScheduler::go_round() {
  rows_.clear();
  verify_.clear();
  plan_decodes_ = 0;
  plan_decode_context_ = plan_decode_blocks_ = 0;
  if (ring_.blocked()) {
    begin_plan();
    return finish_plan();
  }
  // Without a batch the loop goes on to the next place that is in flight, or round and round.
  const bool runs = !compose().empty();
  for (std::size_t i = 0; i < ring_.size() && !runs && !ring_.blocked(); ++i) ring_.pass();
  launch(!waits_for_batch(), runs);
  if (runs) plan_.hands_on_after_update = ring_.launch();
  return plan_;
}

}  // namespace orrery
