// Prefill and decode apart in a scenario: which pools go together, on which fabric, and where their instances
// stand on it (docs/disaggregation.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/pool_spec.h"
#include "sim/fabric/figure.h"
#include "sim/handoffs.h"

namespace orrery {

// How long vLLM's prefill side keeps blocks that nobody fetches.
extern const fabric::Figure kv_lease;
// The same beside MooncakeConnector.
extern const fabric::Figure mooncake_hold;
// How often SGLang's decode side asks whether a prefill server is there.
extern const fabric::Figure sglang_heartbeat;

bool is_disaggregated(const std::vector<const PoolSpec*>& pools);

// Roles that do not go together, and what a prefill or decode pool cannot be: errors at their keys.
void check_roles(const std::vector<Yaml>& nodes, const std::vector<PoolSpec>& pools);

// `deployment.pd`; the default rules without prefill and decode pools.
PdRules read_pd(const Yaml& deployment, const std::vector<const PoolSpec*>& pools);

// `deployment.topology`. Prefill and decode pools need a topology, and so do encoder pools and instances
// wider than a board. Null after an error, or without.
std::shared_ptr<const fabric::Topology> read_fabric(const Yaml& deployment, const std::string& folder,
                                                    const std::vector<const PoolSpec*>& pools,
                                                    Errors& errors);

// Instances take the topology's GPUs in order; one that what is left of a node cannot hold begins on the next
// node. Needs the pools' memory plans. Errors: not enough GPUs, no way.
Result<std::vector<FabricTransport::Seat>> seat_instances(const fabric::Topology& topology,
                                                          const std::vector<const PoolSpec*>& pools,
                                                          const PdRules& pd);
// The same with the GPUs that send and receive KV: of copies of attention that each hold all of it the first
// one (SGLang's disaggregation/common/conn.py, `is_dummy_cp_rank`).
Result<std::vector<FabricTransport::Seat>> kv_seats(const fabric::Topology& topology,
                                                    const std::vector<const PoolSpec*>& pools,
                                                    const PdRules& pd);

// Gives pools whose instances stand on several nodes the links of their collectives (InstanceSpec::links),
// those of a pool's first instance. Errors: as above, and groups of ranks that nodes do not share evenly.
Status place_pools(const fabric::Topology& topology, const std::vector<PoolSpec*>& pools);

}  // namespace orrery
