// Whether an exchange of experts' rows that engine_args ask for can run and be priced.
#pragma once

#include "base/yaml_reader.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// Loads the table into `spec` and reports, at the argument, what the kernels or the timings do not cover.
void read_exchange(InstanceSpec& spec, const Yaml& args, Errors& errors);

}  // namespace orrery
