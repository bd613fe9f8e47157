// Engine profiles as files, before a deployment decides which defaults apply.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/yaml_reader.h"
#include "costmodel/engine_profile.h"

namespace orrery {

struct BatchDefaults {
  std::int64_t max_num_batched_tokens = 0, max_num_seqs = 0;
};

struct EngineFile {
  EngineProfile profile;
  std::string description;
  std::int32_t synchronous_depth = 1;       // steps in flight with async_scheduling: false
  double large_from_bytes = 0;              // device memory from which `large` applies
  BatchDefaults large, small;
  std::int64_t largest_graph = 512;
  std::vector<std::string> effective, ignored;                   // engine arguments by name
  std::vector<std::pair<std::string, std::string>> refused;      // with the reason
};

Result<EngineFile> load_engine(const std::string& name);

// Applies hardware-dependent defaults and the scenario's engine_args (errors go to the document of `args`).
EngineProfile resolve_engine(const EngineFile& file, const Yaml& args, Bytes device_memory, const std::string& architecture,
                             std::int64_t max_positions);

}  // namespace orrery
