#include "sim/costed/pooled_executor.h"

namespace orrery {

PooledExecutor::PooledExecutor(const std::vector<Part>& parts) {
  for (const Part& part : parts) {
    const Place place{part.executor, static_cast<std::uint32_t>(places_.size())};
    parts_.push_back(place);
    places_.insert(places_.end(), part.instances, place);
  }
}

void PooledExecutor::submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) {
  of(instance).submit(step, own(instance), plan, now);
}

void PooledExecutor::transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) {
  of(instance).transfer(own(instance), work, now);
}

void PooledExecutor::cut(InstanceId instance, SimTime at) { of(instance).cut(own(instance), at); }

void PooledExecutor::ended(InstanceId instance, SequenceId sequence) {
  of(instance).ended(own(instance), sequence);
}

void PooledExecutor::take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) {
  of(instance).take_input(own(instance), prompt_tokens, now);
}

SimTime PooledExecutor::hold_launch(InstanceId instance, SimDuration work, SimTime now) {
  return of(instance).hold_launch(own(instance), work, now);
}

void PooledExecutor::reset(InstanceId instance, SimTime now) { of(instance).reset(own(instance), now); }

void PooledExecutor::set_speed(InstanceId instance, std::int32_t gpu, double factor) {
  of(instance).set_speed(own(instance), gpu, factor);
}

void PooledExecutor::end_before(InstanceId instance, SimTime at) {
  of(instance).end_before(own(instance), at);
}

SimTime PooledExecutor::next_event() const {
  SimTime first = SimTime::never();
  for (const Place& part : parts_) first = earlier(first, part.executor->next_event());
  return first;
}

void PooledExecutor::collect(SimTime now, Outcomes& outcomes) {
  for (const Place& part : parts_) {
    if (part.executor->next_event() > now) continue;
    part_.clear();
    part.executor->collect(now, part_);
    const auto append = [&](auto& all, auto& own) {
      for (auto& one : own) {
        one.instance = InstanceId(one.instance.value() + part.first);
        all.push_back(one);
      }
    };
    append(outcomes.host_free, part_.host_free);
    append(outcomes.steps, part_.steps);
    append(outcomes.transfers, part_.transfers);
  }
}

DeviceSpan PooledExecutor::device_span(InstanceId instance, StepId step) const {
  return of(instance).device_span(own(instance), step);
}

std::int32_t PooledExecutor::depth(InstanceId instance) const { return of(instance).depth(own(instance)); }

SimDuration PooledExecutor::output_delay(InstanceId instance) const {
  return of(instance).output_delay(own(instance));
}

SimDuration PooledExecutor::output_per_sequence(InstanceId instance) const {
  return of(instance).output_per_sequence(own(instance));
}

}  // namespace orrery
