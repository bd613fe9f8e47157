// Checks for what cannot happen. They stay on in Release: a simulator that goes on after a broken
// invariant produces numbers that look fine.
#pragma once

#include <cstdint>

namespace orrery {

// What the process was doing, printed when a check fails so that the failure can be reproduced.
// `where` is set by the simulation loop; costs two stores per event.
struct CheckContext {
  std::int64_t sim_time_ns = -1;
  std::uint64_t seed = 0;
  std::uint64_t digest = 0;
};
CheckContext& check_context();

[[noreturn]] void check_failed(const char* condition, const char* message, const char* file, int line);

}  // namespace orrery

// Always on; O(1) conditions only.
#define ORRERY_CHECK(condition, message) \
  ((condition) ? static_cast<void>(0) : ::orrery::check_failed(#condition, message, __FILE__, __LINE__))

// For checks that cost more than O(1): on in Debug builds.
#ifdef NDEBUG
#define ORRERY_DCHECK(condition, message) static_cast<void>(0)
#else
#define ORRERY_DCHECK(condition, message) ORRERY_CHECK(condition, message)
#endif
