// Steps of an instance with pipeline stages: costmodel/staged_pipeline.h instead of the one device's
// recurrence, and no stretches.
#include <algorithm>

#include "sim/costed/cost_model_executor.h"

namespace orrery {

SimTime CostModelExecutor::core_free(const Engine& e) const {
  return e.staged ? e.staged->core_free() : e.pipeline.core_free() + pass_wait_;
}

SimTime CostModelExecutor::core_free_after_update(const Engine& e) const {
  if (e.staged) return e.staged->core_free_after(e.open.front().timing, e.open.front().times);
  HostPipeline ahead = e.pipeline;
  StepTimes times = e.open.front().times;
  ahead.update(e.open.front().timing, times);
  return ahead.core_free();
}

void CostModelExecutor::update_oldest(Engine& e) {
  OpenStep& oldest = e.open.front();
  e.staged ? e.staged->update(oldest.timing, oldest.times) : e.pipeline.update(oldest.timing, oldest.times);
}

void CostModelExecutor::begin_staged(Engine& e, std::size_t instance, const StepPlan& plan, SimTime now) {
  const StepShape shape = shape_alone(e, plan);
  bool samples = plan.decode_sequences > 0;
  for (const PrefillWork& w : plan.prefill) samples |= w.samples;
  stage_experts_.clear();
  if (experts_.on())
    experts_.next(instance, e.pricer->expert_work(std::span(&shape, 1)), now, stage_experts_);
  e.pricer->price_stages(shape, samples, staged_, stage_experts_);
  if (shares_links(instance)) share_stages(e, shape, now);
  // One draw a step: what slows a host slows all of its workers.
  constexpr std::int64_t unit = std::int64_t{1} << 20;
  const bool varies = !plan.prefill.empty() && plan.decode_sequences > 0;
  const std::int64_t factor = varies ? jitter_.next(instance, unit) : unit;
  const std::int64_t first_use = first_use_.charge(instance, plan.tokens());
  std::int64_t busy = 0;
  for (std::size_t i = 0; i < staged_.stages.size(); ++i) {
    StageTiming& stage = staged_.stages[i];
    stage.launch = stage.launch * factor / unit + first_use;
    if (!e.speeds.empty()) {
      stage.busy = slowed(stage.busy, e.speeds[i]);
      stage.last_kernel = slowed(stage.last_kernel, e.speeds[i]);
    }
    usage_.stage_ns[i] += stage.busy;
    usage_.handoff_ns += stage.handoff;
    busy += stage.busy + stage.handoff;
  }
  count_usage(plan, shape, busy);
  // What was retracted, or comes back: the scheduler of every stage waits for its part (`offload_kv_cache`).
  if (plan.onboarded_blocks + plan.offloaded_blocks > 0) now = copy_before_staged(instance, plan, now);
  AwaitedStep awaited;
  if (plan.hands_on_after_update) awaited = {e.open.front().timing, e.open.front().times};
  const StepTimes times = e.staged->begin(staged_, now, plan.hands_on_after_update ? &awaited : nullptr);
  const SimTime from = later(times.device_begin, e.staged_until);
  if (from < times.device_end) usage_.staged_span_ns += (times.device_end - from).ns();
  e.staged_until = later(e.staged_until, times.device_end);
  e.open.push_back({.timing = staged_.host, .times = times});
  e.host_free_due = e.open.size() < e.depth;
}

SimTime CostModelExecutor::copy_before_staged(std::size_t instance, const StepPlan& plan, SimTime now) {
  using Direction = TransferWork::Direction;
  const SimTime up = copied(
      instance, {.direction = Direction::to_device, .id = 0, .blocks = plan.onboarded_blocks}, now, now);
  const SimTime down =
      copied(instance, {.direction = Direction::to_host, .id = 0, .blocks = plan.offloaded_blocks}, now, now);
  usage_.copy_ns += (later(up, down) - now).ns();
  return later(up, down);
}

void CostModelExecutor::begin_empty(Engine& e, const StepPlan& plan, SimTime now) {
  e.speech->begin(plan);
  const StepTiming host = e.pricer->empty_timing(plan.running);
  const bool fills = e.open.size() + 1 == e.depth;
  e.open.push_back({.timing = host, .times = e.staged->begin_empty(host, now, fills)});
  e.host_free_due = !fills;
  ++usage_.empty_batches;
}

}  // namespace orrery
