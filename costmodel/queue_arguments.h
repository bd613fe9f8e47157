// What SGLang's orders of the queue and delays of prefill need of other arguments.
#pragma once

#include "base/yaml_reader.h"

namespace orrery {

struct EngineProfile;
struct ParallelPlan;

void check_queue_arguments(EngineProfile& engine, const ParallelPlan& plan, const Yaml& args,
                           const Yaml& place);

}  // namespace orrery
