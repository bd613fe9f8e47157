// `slo: {ttft_ms, tpot_ms, percentile}` of a scenario, and of a published run.
#pragma once

#include "base/yaml_reader.h"
#include "sim/costed/scenario.h"

namespace orrery {

SloSpec read_slo(const Yaml& node);  // absent: none given

}  // namespace orrery
