// What vLLM's ranks of a model with experts do when none of them has a request (`DPEngineCoreProc.
// run_busy_loop`, v1/engine/core.py): dummy batches, until a count of forward passes that is a multiple of 32
// lets them agree that all are done. A request that comes before waits for those on their way. The passes
// since the last agreement are a wave.
#pragma once

#include <cstdint>
#include <vector>

#include "base/time.h"
#include "costmodel/step_pricer.h"

namespace orrery {

class IdleWaves {
 public:
  IdleWaves() = default;  // no engine runs any
  // `instances` equal engines. `waits_for_inputs`: of the V1 runner, which begins no batch before the device
  // has taken the inputs of the one before (`synchronize_input_prep`), so that two are ahead of the running
  // one; the V2 runner issues them as fast as its host can.
  IdleWaves(const StepPricer& pricer, bool waits_for_inputs, std::size_t instances);
  bool on() const { return !waves_.empty(); }

  // Step `step` of an instance without steps in flight begins at `now`, after the device had ended the last
  // one at `free` ≤ now. Returns until when dummy batches hold the device, `free` when none does.
  SimTime busy_until(std::size_t instance, std::int64_t step, SimTime free, SimTime now);
  // The instance's process begins anew.
  void reset(std::size_t instance) {
    if (on()) waves_[instance] = Wave{};
  }
  std::int64_t batches() const { return batches_; }  // run for nobody, so far, but for those after the end
  SimDuration period() const { return period_; }

 private:
  struct Wave {
    std::int64_t first = 0, dummies = 0;  // its first step, and passes beside its steps
  };
  SimDuration period_, issue_;  // of dummy batches on the device, and of the host that issues them
  std::int64_t ahead_ = 0;
  std::vector<Wave> waves_;
  std::int64_t batches_ = 0;
};

}  // namespace orrery
