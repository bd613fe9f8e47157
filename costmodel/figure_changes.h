// What-ifs on figures: `overrides.figures` of a scenario, {hbm_bandwidth: 5.3e12, host: {launch_graph:
// 2e-3}}. docs/what_if.md lists the names; values are in base units (bytes, bytes/s, operations/s, s, ratio,
// USD/h).
#pragma once

#include "base/yaml_reader.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// Puts the figures of `node` (absent = none) in place of the profiles'. Their kind becomes `assumed` and the
// source says what they were instead of. Kernel tables hold utilisation of the part's own rates, so a rate
// that moves takes the times of tables along; `spec.kernels` must be loaded before. Errors go to the
// document: unknown names with a did-you-mean, values out of range, figures that the part does not have, and
// those that would change nothing, with the key that would.
void change_figures(const Yaml& node, InstanceSpec& spec);

}  // namespace orrery
