// Which layers of a prompt the device has computed while its last step runs, for connectors that send each
// layer's KV as soon as it is there. Layers take equal shares of the step's time on the device: the embedding
// and the head are spread over them, and a layer's KV leaves when the layer has ended, not its attention.
#pragma once

#include <algorithm>
#include <vector>

#include "sim/executor.h"

namespace orrery {

class LayerProgress {
 public:
  explicit LayerProgress(std::int32_t layers) : layers_(layers) {}

  // `request`'s prompt ends in `step` of `instance`, which has been submitted.
  void add(InstanceId instance, StepId step, RequestId request) {
    if (steps_.empty() || steps_.back().instance != instance || steps_.back().step != step)
      steps_.push_back({instance, step, 0, {}});
    steps_.back().requests.push_back(request);
  }
  // When the next layer of any of them ends; may move either way after any call of the executor.
  SimTime next(const Executor& executor) const {
    SimTime first = SimTime::never();
    for (const Step& s : steps_) first = earlier(first, end_of(s, s.done + 1, executor));
    return first;
  }
  // Calls each(request, layers computed by `now`) for those with more than before, in order of beginning.
  template <class Each>
  void take(SimTime now, const Executor& executor, Each each) {
    for (Step& s : steps_) {
      const std::int64_t before = s.done;
      while (s.done < layers_ && end_of(s, s.done + 1, executor) <= now) ++s.done;
      if (s.done == before) continue;
      for (const RequestId request : s.requests) each(request, s.done);
    }
    std::erase_if(steps_, [&](const Step& s) { return s.done == layers_; });
  }
  // Nobody wants the request's layers any more; or the instance is gone with all of its steps.
  void forget(RequestId request) {
    for (Step& s : steps_) std::erase(s.requests, request);
  }
  void forget(InstanceId instance) {
    std::erase_if(steps_, [&](const Step& s) { return s.instance == instance; });
  }

 private:
  struct Step {
    InstanceId instance;
    StepId step;
    std::int64_t done;
    std::vector<RequestId> requests;
  };
  SimTime end_of(const Step& s, std::int64_t layer, const Executor& executor) const {
    const DeviceSpan span = executor.device_span(s.instance, s.step);
    const std::int64_t length = (span.end - span.begin).ns();
    return span.begin + SimDuration((length * layer + layers_ - 1) / layers_);
  }

  std::int64_t layers_;
  std::vector<Step> steps_;
};

}  // namespace orrery
