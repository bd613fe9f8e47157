// Inside plan/ only: `search.workloads`, the workloads that every deployment is run under.
#pragma once

#include <string>

#include "base/yaml_reader.h"
#include "plan/space.h"

namespace orrery {

// A node as YAML in one line, as --set takes it.
std::string flow_text(const Yaml& node);

// Reads `search.workloads` and `search.over_workloads` into the space; problems go to the document. A file's
// own problems are returned.
Status read_plan_workloads(const Yaml& root, const Yaml& search, const std::string& folder, PlanSpace& space);

}  // namespace orrery
