// For `orrery list`: what is in the data folders.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace orrery {

// Provenance: what the entry rests on, in a line.
struct ListEntry {
  std::string name, description, provenance;
};
Result<std::vector<ListEntry>> list_hardware();
Result<std::vector<ListEntry>> list_models();
Result<std::vector<ListEntry>> list_engines();
std::vector<ListEntry> list_operators();

}  // namespace orrery
