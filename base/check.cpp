#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace orrery {

CheckContext& check_context() {
  thread_local CheckContext context;
  return context;
}

void check_failed(const char* condition, const char* message, const char* file, int line) {
  const CheckContext& c = check_context();
  std::fprintf(
      stderr,
      "orrery: internal error: %s\n  condition: %s\n  at: %s:%d\n  simulated time: %lld ns, seed: %llu, "
      "digest so far: %016llx\n  This is a bug in Orrery; please report it with the command that led here.\n",
      message, condition, file, line, static_cast<long long>(c.sim_time_ns),
      static_cast<unsigned long long>(c.seed), static_cast<unsigned long long>(c.digest));
  std::abort();
}

}  // namespace orrery
