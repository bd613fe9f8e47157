// The least time that a part's data sheet allows for a case: whoever reports less has measured something
// else.
#pragma once

#include "base/result.h"
#include "costmodel/hardware.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

// Microseconds; already lenient by the clock's boost over the one that the sheet's peak assumes. Errors
// without a place: a type that the part has no matrix instruction for, ranks without links.
Result<double> least_us(const kernels::CaseSpec& spec, const HardwareProfile& hardware);

}  // namespace orrery::calibrate
