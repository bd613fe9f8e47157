// Teacher-forced replay of a measured run through our scheduler: before each step it is told what the engine
// knew (outcomes and arrivals in the logged order) and must compose the same step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "reports/casebook/measured_run.h"

namespace orrery {

struct StepDifference {
  std::string experiment;
  std::int64_t step = 0;
  std::string field, expected, got;  // the log's, ours
};

struct ExperimentReplay {
  std::string name;
  std::int64_t steps = 0, identical = 0;
  // By request: start of the schedule() in which the engine first knew it; −1 = never.
  std::vector<std::int64_t> known_at_ns;
};

struct ScheduleReplay {
  std::string run;
  std::int64_t steps = 0, identical = 0;
  std::vector<ExperimentReplay> experiments;
  std::vector<StepDifference> differences;  // one a differing field
};

// A step counts as identical when tokens, sequences, chunks with order and owners, admissions with cached
// tokens, running (where it is logged), waiting, free blocks and preempted requests are all equal. SGLang's:
// also the context of the decodes; a free block there is a free or evictable page.
ScheduleReplay replay_schedule(const MeasuredRun& run);

Json schedule_replay_json(const ScheduleReplay& replay);         // interfaces §8
std::string schedule_replay_text(const ScheduleReplay& replay);  // ends with "identical N of M steps"

}  // namespace orrery
