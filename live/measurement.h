// What an earlier `live --endpoint --out` measured, read back from its folder (measured.csv,
// comparison.json).
#pragma once

#include <string>

#include "base/result.h"
#include "live/endpoint_client.h"

namespace orrery {

// `source`: the workload that was played, in the same order. Of pooled gaps and of the client's lateness the
// mean, p50 and p99 are known. Errors: a missing or malformed file, located; rows of another workload.
Result<EndpointRun> read_measurement(const std::string& folder, RequestSource& source);

}  // namespace orrery
