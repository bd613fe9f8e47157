// A made-up step of the log, for tests of what fits make of one.
#pragma once

#include "reports/casebook/step_samples.h"

namespace orrery::test {

// A prompt of 600 launches, one by one on a device that is done with the step before.
inline StepSample prompt_sample(double busy, double device) {
  StepSample s;
  s.mode = StepSample::Mode::none;
  s.prompts = s.clear = true;
  s.graph = 1850;
  s.excess = 14'000;
  s.launches = 600;
  s.busy = busy;
  s.device = device;
  return s;
}

}  // namespace orrery::test
