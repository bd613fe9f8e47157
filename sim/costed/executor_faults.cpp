// Instances whose process is gone, and GPUs that are slow.
#include <algorithm>

#include "sim/costed/cost_model_executor.h"

namespace orrery {

void CostModelExecutor::reset(InstanceId instance, SimTime now) {
  Engine& e = engines_[instance.value()];
  if (shares_links(instance.value())) shared_->nothing_in_flight(first_instance_ + instance.value(), now);
  if (copies_on_fabric(instance.value())) fabric_->drop_copies(first_instance_ + instance.value(), now);
  if (e.stretch.planned > 0) finish_stretch(e);  // what it began has been on the device
  e.pipeline = HostPipeline(e.pricer->launcher_is_core());
  e.open.clear();
  e.host_free_due = false;
  e.next_update = 0;
  e.stretch = Stretch{};
  e.lanes.clear();
  e.speech.reset();
  e.staged.reset();
  e.staged_until = SimTime{};
  make_state(e);
  first_use_.reset(instance.value());
  waves_.reset(instance.value());
  if (fresh_link_) links_[instance.value()] = *fresh_link_;
  const auto gone = [&](const TransferDone& t) { return t.instance == instance; };
  if (std::erase_if(transfers_, gone) > 0) std::make_heap(transfers_.begin(), transfers_.end(), done_later);
  events_.set(instance.value(), SimTime::never());
}

// Ranks in lockstep wait for the slowest; stages are each as slow as their own slowest GPU. Ranks are counted
// stage by stage.
void CostModelExecutor::set_speed(InstanceId instance, std::int32_t gpu, double factor) {
  std::erase_if(slow_, [&](const GpuSpeed& s) { return s.instance == instance && s.gpu == gpu; });
  if (factor < 1) slow_.push_back({instance, gpu, factor});
  Engine& e = engines_[instance.value()];
  e.speeds.clear();
  const auto stages = static_cast<std::size_t>(e.pricer->stages());
  for (const GpuSpeed& s : slow_) {
    if (s.instance != instance) continue;
    if (e.speeds.empty()) e.speeds.assign(stages, 1.0);
    double& speed = e.speeds[std::min(stages - 1, static_cast<std::size_t>(s.gpu / gpus_per_stage_))];
    speed = std::min(speed, s.factor);
  }
}

void CostModelExecutor::end_before(InstanceId instance, SimTime at) {
  Engine& e = engines_[instance.value()];
  Stretch& s = e.stretch;
  if (s.planned == 0 || at.is_never()) return;
  const auto end = s.boundaries.begin() + s.taken;
  const auto first = std::lower_bound(s.boundaries.begin(), end, at);
  s.taken = std::max<std::int64_t>(1, first - s.boundaries.begin());
  schedule_event(instance.value());
}

}  // namespace orrery
