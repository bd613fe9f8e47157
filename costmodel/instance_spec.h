// From names to figures: resolves the deployment keys of a scenario (hardware, model, engine, quantisation,
// plan, engine_args) into an InstanceSpec, or reports everything that is wrong with them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// `node` is the `deployment:` map (or one pool). Reads hardware, model, engine, quantization, kv_cache_dtype,
// parallel, engine_args; leaves replicas, router, role and name to the caller. `folder`: where a relative
// model path starts. Errors go to the document (unknown names with did-you-mean; heads or expert width not
// divisible; engine arguments that are unknown, or refused by name because Orrery does not model them).
// `figures`: `overrides.figures` of the scenario (costmodel/figure_changes.h).
InstanceSpec read_instance_spec(const Yaml& node, const std::string& folder, Errors& errors,
                                const Yaml& figures = {});

}  // namespace orrery
