// What a step log beside a measured load says of where the load's prediction went wrong: which kinds of steps
// took longer than priced, which operator classes, and how the error that clients saw splits up
// (error_split.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "reports/casebook/error_split.h"
#include "reports/casebook/measured_run.h"
#include "reports/casebook/step_fit.h"

namespace orrery {

// A request as its client saw it, and as the simulation predicts it, API server and all; milliseconds.
struct SeenRequest {
  std::int64_t prompt_tokens = 0, output_tokens = 0;
  double ttft_ms = 0, e2e_ms = 0;
  double predicted_ttft_ms = -1, predicted_e2e_ms = -1;  // −1: the simulation did not answer it
};

// Steps alike: decodes by their number, steps with prompts by their tokens. Errors: predicted ÷ logged − 1,
// medians over steps, percent.
struct StepKind {
  std::string name;
  std::int64_t steps = 0;
  double device_ms = 0;                             // logged, all of them together
  double device = 0, device_p90 = 0;                // p90: of the absolute error
  double host = 0;                                  // schedule to update
  std::vector<std::pair<std::string, double>> ops;  // share of the priced device time by operator class,
                                                    // percent
};

// Of an operator class: a log has one time a step, so this is what makes the classes' prices add up best.
struct ClassResidual {
  FittedTerm factor;  // logged ÷ priced; not `fitted` where the log cannot tell
  double share = 0;   // of the priced device time, percent
};

// predicted − measured = step_time + host + queueing + transfer + front_end, exactly; means, milliseconds.
// front_end: HTTP, API server and the way to the client, as predicted less as they were (and, where the log
// does not tell them apart, queueing includes how they were). transfer: of KV, which one engine has none of.
struct Attribution {
  std::string metric;
  std::int64_t requests = 0;
  double predicted = 0, measured = 0, step_time = 0, host = 0, queueing = 0, transfer = 0, front_end = 0;
};

struct StepEvidence {
  std::string run, experiment;
  std::int64_t steps = 0, identical = 0;  // teacher-forced
  std::int64_t left_out = 0;              // requests beside a stall, in no attribution
  std::vector<StepKind> kinds;
  std::vector<ClassResidual> classes;
  std::vector<Attribution> attribution;
};

// `seen`: the load's completed requests in the order in which they were sent. `experiment` names the load in
// the log, "" takes the one that has these requests. `concurrency`: of a closed loop, else 0. Errors: no
// load, or not this one's requests; a log without times; a simulation's.
Result<StepEvidence> step_evidence(const Scenario& scenario, MeasuredRun run, const std::string& experiment,
                                   const std::vector<SeenRequest>& seen, std::int64_t concurrency);

// {run, experiment, schedule, attribution, step_kinds, operators}
Json step_evidence_json(const StepEvidence& evidence);
std::string step_evidence_text(const StepEvidence& evidence);

}  // namespace orrery
