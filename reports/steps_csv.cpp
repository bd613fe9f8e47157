#include "reports/steps_csv.h"

#include "base/json.h"

namespace orrery {

Result<StepsCsv> StepsCsv::create(const std::string& path) {
  ORRERY_TRY(file, AtomicFile::create(path));
  StepsCsv csv(std::move(file));
  csv.file_.write(
      "instance,step,steps,schedule_begin_s,device_begin_s,device_end_s,update_end_s,prefill_tokens,prefill_"
      "chunks,"
      "decode_sequences,decode_context_tokens,new_requests,running,waiting,free_blocks,preempted\n");
  return csv;
}

void StepsCsv::on_step(const StepRecord& s) {
  std::string row =
      std::to_string(s.instance.value()) + "," + std::to_string(s.step) + "," + std::to_string(s.steps);
  for (const SimTime t : {s.schedule_begin, s.device_begin, s.device_end, s.update_end}) {
    row += "," + format_nanoseconds_as_seconds(t.ns());
  }
  for (const std::int64_t v :
       {s.prefill_tokens, std::int64_t{s.prefill_chunks}, std::int64_t{s.decode_sequences},
        s.decode_context_tokens, std::int64_t{s.new_requests}, std::int64_t{s.running},
        std::int64_t{s.waiting}, s.free_blocks, std::int64_t{s.preempted}}) {
    row += "," + std::to_string(v);
  }
  file_.write(row + "\n");
}

Status StepsCsv::commit() { return file_.commit(); }

}  // namespace orrery
