// Where profiles live: one YAML file a name, in a folder of the data directory.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace orrery {

std::vector<std::string> profile_names(const std::string& folder);  // file names without .yaml, sorted
std::string profile_path(const std::string& folder, const std::string& name);
// Path of `<folder>/<name>.yaml`; unknown names are an error without a place that lists the known ones, with
// a did-you-mean. `what`: "hardware", "model", …
Result<std::string> find_profile(const std::string& folder, const std::string& name, const char* what);

}  // namespace orrery
