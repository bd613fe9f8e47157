#include "sim/costed/run_reports.h"

namespace orrery {

void report_device(const CostModelExecutor& executor, RunResult& result) {
  const CostModelExecutor::Usage& usage = executor.usage();
  if (result.device_time.empty())
    result.device_time = {{"prefill steps", 0}, {"mixed steps", 0}, {"decode steps", 0}};
  result.prices += usage.prices;
  result.device_time[0].second += usage.prefill.ns;
  result.device_time[1].second += usage.mixed.ns;
  result.device_time[2].second += usage.decode.ns;
  result.device_busy_ns += usage.prefill.ns + usage.mixed.ns + usage.decode.ns;
  result.offload.device_wait_ns += usage.copy_ns;
  result.first_uses += static_cast<std::uint64_t>(executor.first_use().count());
  result.first_use_ns += executor.first_use().held_ns();
}

void report_stages(const CostModelExecutor::Usage& usage, PipelineResult& p) {
  if (usage.stage_ns.empty() || usage.staged_span_ns == 0) return;
  p.stages = static_cast<std::int32_t>(usage.stage_ns.size());
  p.empty_batches = usage.empty_batches;
  const double span = static_cast<double>(usage.staged_span_ns);
  double busy = 0;
  for (const std::int64_t ns : usage.stage_ns) {
    p.busy.push_back(static_cast<double>(ns) / span);
    busy += p.busy.back();
  }
  p.handoff = static_cast<double>(usage.handoff_ns) / span / p.stages;
  p.bubble = 1 - busy / p.stages - p.handoff;
}

void report_transport(const FabricTransport& transport, bool kv, RunResult& result) {
  const SimDuration span = later(result.last_finish, result.first_arrival) - result.first_arrival;
  if (kv) transport.report(span, result.transfers);
  result.images.fetches = transport.fetches();
  result.images.fetched_bytes = transport.fetched_bytes();
}

}  // namespace orrery
