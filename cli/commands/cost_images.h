// What a few common image sizes become on a deployment, as a table.
#pragma once

#include <string>

#include "base/result.h"
#include "sim/costed/scenario.h"

namespace orrery {

// Empty when the deployment takes no images.
Result<std::string> image_table(const Scenario& scenario);

}  // namespace orrery
