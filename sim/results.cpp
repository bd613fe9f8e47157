#include "sim/results.h"

namespace orrery {

const char* to_string(RequestStatus status) {
  switch (status) {
    case RequestStatus::completed: return "completed";
    case RequestStatus::failed: return "failed";
    case RequestStatus::cancelled: return "cancelled";
    case RequestStatus::timed_out: return "timed_out";
    case RequestStatus::rejected: return "rejected";
  }
  return "failed";
}

std::int64_t RequestRecord::tpot_ns() const {
  if (output_tokens < 2) return -1;
  const std::int64_t span = (e2e - ttft).ns(), gaps = output_tokens - 1;
  const std::int64_t quotient = span / gaps, rest = span % gaps;
  if (2 * rest > gaps || (2 * rest == gaps && quotient % 2 != 0)) return quotient + 1;
  return quotient;
}

}  // namespace orrery
