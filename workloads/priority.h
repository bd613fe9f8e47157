// What a request without a priority has; engines differ in what that means.
#pragma once

#include <cstdint>

namespace orrery {

constexpr std::int32_t no_priority = INT32_MIN;

}  // namespace orrery
