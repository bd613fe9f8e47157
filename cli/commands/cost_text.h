// Prices as tables, JSON and CSV.
#pragma once

#include <string>

#include "base/json.h"
#include "cli/command.h"
#include "costmodel/memory_plan.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// Exact: nanoseconds as microseconds with three decimals.
std::string microseconds_text(std::int64_t ns);

std::string step_table(const std::string& title, const StepBreakdown& step);
std::string compare_table(const std::string& title, const std::string& name_a, const StepBreakdown& a,
                          const std::string& name_b, const StepBreakdown& b);
std::string instance_line(const InstanceSpec& instance);

Json step_json(const std::string& spec, const StepBreakdown& step);
// `deviations`: of the plan, to either end of the interval of KV blocks (costmodel/memory_doubt.h).
Json memory_json(const MemoryPlan& plan, double deviations);

constexpr const char* step_csv_header = "step,device_us,busy_us,host_us,step_us,low_us,high_us,bound\n";
// A table of ours to `path`, or when that is empty to standard output: as CSV, with --json as a list of
// objects. Returns the exit code.
int put_csv(const std::string& csv, const std::string& path, const CommandContext& context);
void append_step_csv(std::int64_t row, const StepSummary& step, std::string& out);

}  // namespace orrery
