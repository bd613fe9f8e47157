// The probes of kernels/probes.h as figures of a table.
#pragma once

#include "calibrate/session.h"

namespace orrery::calibrate {

// "bandwidth", "host_copies", "launches", "sustained". What was found before an error is kept.
bool run_probe(const std::string& probe, kernels::Device& device, std::vector<ProbeFigure>& figures,
               std::string& why);

}  // namespace orrery::calibrate
