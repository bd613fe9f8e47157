// `engine_args` against an engine profile's table of arguments: which of them change the prediction, which do
// not, which cannot be modelled. What the effective ones mean is each engine's own file.
#pragma once

#include <functional>
#include <string>

#include "costmodel/engine_profile.h"
#include "costmodel/parallel_plan.h"

namespace orrery {

// Calls `effective` for every argument that the profile calls effective; notes ignored ones in the profile;
// reports unknown, refused and impossible ones at their place. An argument that the table lists by the names
// inside it ("kv_cache_config.dtype") is a map of those.
void apply_engine_arguments(EngineProfile& engine, const ParallelPlan& plan, const Yaml& args,
                            const std::function<void(const std::string& name, const Yaml& value)>& effective);

}  // namespace orrery
