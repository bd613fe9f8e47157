// Reading a folder of ServeGen client profiles.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace orrery {

struct ServegenWindow {
  double start_s = 0;
  double rate = 0;              // requests per second; 0 = silent, then nothing else is set
  bool weibull = false;         // else gamma
  double shape = 0, scale = 0;  // of the gaps
};

// Token counts and the cumulated probability up to each; ends with 1.
struct TokenDistribution {
  std::vector<std::int32_t> tokens;
  std::vector<double> cumulated;
};

struct ServegenLengths {
  double start_s = 0;
  TokenDistribution input, output;  // empty: nothing was sent in these hours
};

struct ServegenClient {
  std::uint64_t id = 0;
  std::vector<ServegenWindow> windows;   // equally long, in order
  std::vector<ServegenLengths> lengths;  // in order
};

// Clients by id. Errors: no client in the folder, a client without chunk-N-dataset.json, a bad line or value.
Result<std::vector<ServegenClient>> load_servegen(const std::string& folder);

}  // namespace orrery
