// What a run's log leaves to the model: which layers keep which tokens.
#pragma once

#include <string>

#include "sim/scheduler.h"

namespace orrery {

// vLLM's groups for a model as the engine was told its name ("gpt-oss-20b", "openai/gpt-oss-20b", a folder of
// that name, in any case). A model without a profile counts as one group of full attention.
KvGroups kv_groups_of_model(const std::string& name);

}  // namespace orrery
