// What a measured run says its steps took, asked by shape: the engine's own times, carried to a shape that
// the log does not have by the ratio of our prices. And the check that makes those times worth something: the
// pipeline recurrence over logged starts and durations must give the logged output times.
#pragma once

#include <cstdint>
#include <vector>

#include "costmodel/step_pricer.h"
#include "reports/casebook/measured_run.h"
#include "reports/casebook/robust_fit.h"

namespace orrery {

// The pipeline recurrence (costmodel/pipeline.h) on the log: each step begins at its logged schedule start,
// its parts take what the log says, only the copy back is the engine profile's. Error of a step = predicted ÷
// logged time from schedule start to end of update, − 1. Where the log shows when the step ahead left the
// device (the core thread was waiting for it), the step follows that; else what the recurrence made of the
// step ahead.
struct StepTimeReplay {
  std::int64_t steps = 0;
  double median_abs = 0, p90_abs = 0, median_signed = 0;  // ratios
  // The same without looking at when the step ahead left the device: what rows that the log lacks, and time
  // that lies between the two events of one step and those of the next, add up to until the engine is idle
  // again.
  double running_on_median_abs = 0;
  // By the way: medians of what is left when everything else is as logged, nanoseconds. copy: device end →
  // start of update where the core thread was waiting; gap: end of update → next schedule, where one
  // followed.
  double copy_ns = 0, gap_ns = 0;
};
StepTimeReplay replay_step_times(const MeasuredRun& run, const StepPricer& pricer);

// A step that took over five times the median of its class (prompt chunks or not, tokens by powers of two),
// the first of its size in the run: a compilation or an autotune, not a step time.
struct Stall {
  std::string experiment;
  std::int64_t step = 0, tokens = 0;
  std::int64_t begin_ns = 0, end_ns = 0;
  double class_median_ns = 0;
  std::vector<std::int64_t> requests;  // whose prompts were in it
};
std::vector<Stall> find_stalls(const MeasuredRun& run);

class LoggedStepTimes {
 public:
  enum class Use : std::uint8_t {
    device,           // the device's time is the log's, the host's is the model's
    device_and_host,  // both are the log's
  };
  LoggedStepTimes(const MeasuredRun& run, const StepPricer& pricer, const std::vector<Stall>& stalls,
                  const StepTimeReplay& replay);
  // The model's timing of `shape` with what the log knows put in its place: medians of measured ÷ priced over
  // the nearest logged steps of the kind, equal ones first. With Use::device a step whose launches set its
  // pace keeps the model's busy time: its logged device time is the host's.
  StepTiming at(const StepShape& shape, const StepTiming& priced, Use use) const;
  std::size_t size() const { return steps_[0].size() + steps_[1].size(); }

 private:
  struct Logged {
    float tokens, decodes, context;                   // logarithms
    float device, schedule, prepare, launch, update;  // measured ÷ priced; device −1 = the host's pace
    float gpu;                                        // measured device time ÷ priced busy time, as logged
  };
  std::vector<Logged> steps_[2];  // decode steps, steps with prompt chunks
  double copy_ns_ = 0, gap_ns_ = 0;
};

// The shape that a logged step was priced as; chunks land in `chunks`, which must outlive it. False when the
// log does not say what decoded.
bool shape_of(const MeasuredStep& step, std::vector<PrefillChunk>& chunks, StepShape& shape);

double quantile_of(std::vector<double> values, double p);

}  // namespace orrery
