// Whether a model can be spread over a parallel plan on a part at all.
#pragma once

#include "base/result.h"
#include "costmodel/instance_spec.h"
#include "costmodel/roofline.h"

namespace orrery {

// Heads, widths and experts that do not divide by the plan, and figures of the part that it needs and lacks;
// keys are those of a deployment.
Errors check_plan(const InstanceSpec& spec, const Roofline& roofline);

}  // namespace orrery
