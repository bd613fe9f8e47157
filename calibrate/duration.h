// "8m", "90s", "1h30m": a budget as people write it.
#pragma once

#include <string>

#include "base/result.h"

namespace orrery::calibrate {

Result<double> parse_duration(const std::string& text);  // seconds, positive; errors without a place

}  // namespace orrery::calibrate
