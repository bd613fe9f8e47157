// What summary.json and the printed summary say of instances that came and went (docs/faults.md).
#pragma once

#include <string>

#include "base/json.h"
#include "sim/fleet_result.h"

namespace orrery {

Json fleet_json(const FleetResult& fleet);         // null where all instances stayed
std::string fleet_text(const FleetResult& fleet);  // one line, or none

}  // namespace orrery
