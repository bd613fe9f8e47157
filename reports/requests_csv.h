// requests.csv (interfaces §5): one row per request in trace order, times with nine decimals from integer
// nanoseconds. Written as the run goes, visible when committed.
#pragma once

#include <string>

#include "base/files.h"
#include "sim/results.h"

namespace orrery {

class RequestsCsv final : public RecordSink {
 public:
  // `with_handoffs`: prefill and decode apart, the parts of the time to the first token.
  static Result<RequestsCsv> create(const std::string& path, bool with_itl, bool with_handoffs = false);
  void on_request(const RequestRecord& record) override;
  Status commit();

 private:
  RequestsCsv(AtomicFile file, bool with_itl, bool with_handoffs);
  void put_handoff(const HandoffTimes& times);
  AtomicFile file_;
  bool with_itl_, with_handoffs_;
  std::string buffer_;
};

}  // namespace orrery
