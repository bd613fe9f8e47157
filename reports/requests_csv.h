// requests.csv (interfaces §5): one row per request in trace order, times with nine decimals from integer
// nanoseconds. Written as the run goes, visible when committed.
#pragma once

#include <string>

#include "base/files.h"
#include "sim/results.h"

namespace orrery {

class RequestsCsv final : public RecordSink {
 public:
  static Result<RequestsCsv> create(const std::string& path, bool with_itl);
  void on_request(const RequestRecord& record) override;
  Status commit();

 private:
  RequestsCsv(AtomicFile file, bool with_itl);
  AtomicFile file_;
  bool with_itl_;
  std::string buffer_;
};

}  // namespace orrery
