// The seams of the loop with a tape between them and the loop. Recording, the real ones are behind; playing,
// nothing is.
#pragma once

#include <memory>

#include "base/result.h"
#include "live/seam_tape.h"
#include "sim/results.h"
#include "sim/simulation.h"

namespace orrery {

class TapedSeams {
 public:
  // The tape must outlive the run.
  explicit TapedSeams(SeamTape& tape);
  ~TapedSeams();
  // Puts itself between the loop and the seams that the set-up names.
  void arrange(SimulationSetup& setup);
  // Playing: the inbox, which has no other behind it.
  std::unique_ptr<Inbox> inbox();

 private:
  struct Wrappers;
  SeamTape& tape_;
  std::unique_ptr<Wrappers> wrappers_;
};

}  // namespace orrery
