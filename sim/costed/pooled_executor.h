// Several pools' executors as one: instances are numbered through all pools in order, each executor counts
// its own from 0. A deployment of one pool does without.
#pragma once

#include <vector>

#include "sim/executor.h"

namespace orrery {

class PooledExecutor final : public Executor {
 public:
  struct Part {
    Executor* executor = nullptr;  // must outlive this one
    std::size_t instances = 0;
  };
  explicit PooledExecutor(const std::vector<Part>& parts);

  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override;
  void transfer(InstanceId instance, std::span<const TransferWork> work, SimTime now) override;
  void cut(InstanceId instance, SimTime at) override;
  void ended(InstanceId instance, SequenceId sequence) override;
  void take_input(InstanceId instance, std::int64_t prompt_tokens, SimTime now) override;
  SimTime hold_launch(InstanceId instance, SimDuration work, SimTime now) override;
  void reset(InstanceId instance, SimTime now) override;
  void set_speed(InstanceId instance, std::int32_t gpu, double factor) override;
  void end_before(InstanceId instance, SimTime at) override;
  SimTime next_event() const override;
  void collect(SimTime now, Outcomes& outcomes) override;
  DeviceSpan device_span(InstanceId instance, StepId step) const override;
  std::int32_t depth(InstanceId instance) const override;
  SimDuration output_delay(InstanceId instance) const override;
  SimDuration output_per_sequence(InstanceId instance) const override;

 private:
  struct Place {
    Executor* executor;
    std::uint32_t first;  // number of its first instance
  };
  Executor& of(InstanceId instance) const { return *places_[instance.value()].executor; }
  InstanceId own(InstanceId instance) const {
    return InstanceId(instance.value() - places_[instance.value()].first);
  }

  std::vector<Place> places_;  // by instance
  std::vector<Place> parts_;   // one a pool
  Outcomes part_;
};

}  // namespace orrery
