// Which hardware profile a device is, by the name that its driver reports.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace orrery::calibrate {

// "NVIDIA H200" → "h200". Errors (unavailable): a device without a profile; names --hardware as the remedy.
Result<std::string> hardware_of(std::string_view device_name);

}  // namespace orrery::calibrate
