// Where an end-to-end error comes from. Four runs of one experiment, under the same loop, scheduler and pool:
//   P  CostModelExecutor: prices from the cost model, host from the profile       (the prediction)
//   D  StepTimeExecutor: device times from the log, host from the profile
//   H  StepTimeExecutor: device and host times from the log
//   O  OutcomeExecutor: every step begins and ends as logged, arrivals known as logged (teacher-forced)
// and the measurement M. For the mean of a metric over the same requests
//   step time = P − D     host = D − H     queueing = H − O     client = O − M
// which add up to P − M exactly. Queueing holds whatever of who-runs-when is left once all step times are the
// log's, the way into the engine included; client is the way out of it. Serial experiments have no common
// clock with their step log, so O does not exist there: queueing and client are one part, H − M, given as
// queueing.
#pragma once

#include <string>
#include <vector>

#include "reports/casebook/engine_run.h"
#include "reports/casebook/schedule_replay.h"
#include "reports/casebook/step_times.h"

namespace orrery {

struct MetricSplit {
  std::string metric;  // "ttft_ms", "tpot_ms"
  std::int64_t requests = 0;
  double measured = 0, predicted = 0;                        // means, milliseconds
  double step_time = 0, host = 0, queueing = 0, client = 0;  // milliseconds, sum = predicted − measured
  bool has_outcomes = false;                                 // O was run; else queueing includes client
  // Of each request, predicted ÷ measured − 1.
  double mean_abs = 0, median_abs = 0, mean_signed = 0, median_signed = 0;
  std::vector<double> errors;  // by request, those that count
};

struct ExperimentSplit {
  std::string experiment, kind;  // kind: single | static | closed | open
  std::int64_t left_out = 0;     // requests in flight during a stall
  // Free-running schedule (run P) beside the log: steps equal in place (same number from the first admission,
  // same tokens, sequences and prompt chunks), and share of logged steps with an equal partner anywhere.
  std::int64_t logged_steps = 0, in_place = 0, first_difference = -1;
  std::int64_t partners = 0;
  std::vector<std::size_t> counted;  // requests that are in the metrics, if their metric exists
  std::vector<MetricSplit> metrics;
};

// Errors: the run does not fit, or a simulation ends in an error (located there).
Result<ExperimentSplit> split_errors(const Scenario& scenario, const StepPricer& pricer,
                                     const LoggedStepTimes& times, const MeasuredExperiment& experiment,
                                     const ExperimentReplay& replay, const std::vector<Stall>& stalls);

}  // namespace orrery
