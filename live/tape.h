// A run on tape: recorded beside whatever ran it, replayed without any of that.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "live/taped_seams.h"
#include "sim/costed/run.h"

namespace orrery {

class TapeRecorder {
 public:
  // `cell`: which clock and executor, for people. `stretches` as the run's options have it.
  static Result<TapeRecorder> create(const std::string& path, const Scenario& scenario,
                                     const std::string& version, const std::string& cell, bool stretches);
  // For RunOptions::arrange, behind everything else that changes the seams.
  void arrange(SimulationSetup& setup) { parts_->seams.arrange(setup); }
  Status finish(const RunResult& run);  // the file appears; without it there is none

 private:
  struct Parts {
    explicit Parts(TapeWriter w) : writer(std::move(w)), tape(SeamTape::recording(writer)), seams(tape) {}
    TapeWriter writer;
    SeamTape tape;
    TapedSeams seams;
  };
  explicit TapeRecorder(TapeWriter writer) : parts_(std::make_unique<Parts>(std::move(writer))) {}
  std::unique_ptr<Parts> parts_;
};

struct Replay {
  TapeHeader header;
  TapeEnd recorded;
  RunResult run;
  std::uint64_t readings = 0;
};

// Errors: a tape that is damaged or cut off (invalid input; says what was good), a run that decides otherwise
// than the recorded one (check failed; says where), a scenario that this version or machine cannot read.
Result<Replay> replay_tape(const std::string& path,
                           const std::function<bool(std::uint64_t)>& keep_going = {});

}  // namespace orrery
