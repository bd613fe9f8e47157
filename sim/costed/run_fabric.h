// What a run has of a fabric: flows of KV, of copies to host memory and of experts' weights, and the links
// that they share with steps.
#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/scenario.h"

namespace orrery {

bool has_decoders(const Scenario& scenario);

// Whether a pool's instances copy KV to and from host memory, and the bytes of a block on one GPU.
bool copies_to_host(const PoolSpec& pool);
double host_block_bytes(const PoolSpec& pool);

// Null where there is no topology, or nothing that would meet on it.
Result<std::unique_ptr<FabricTransport>> make_transport(const Scenario& scenario);

// `executors`: by pool; `all`: they as one. All must outlive the transport.
Status share_links(const Scenario& scenario, const std::vector<CostModelExecutor*>& executors, Executor& all,
                   FabricTransport& transport);

}  // namespace orrery
