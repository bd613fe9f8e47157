// What executors and the transport of a run counted, in its result.
#pragma once

#include "sim/costed/cost_model_executor.h"
#include "sim/costed/fabric_transport.h"
#include "sim/results.h"

namespace orrery {

void report_device(const CostModelExecutor& executor, RunResult& result);  // adds
void report_stages(const CostModelExecutor::Usage& usage, PipelineResult& pipeline);
void report_transport(const FabricTransport& transport, bool kv, RunResult& result);

}  // namespace orrery
