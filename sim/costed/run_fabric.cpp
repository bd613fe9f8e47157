#include "sim/costed/run_fabric.h"

#include <algorithm>

#include "costmodel/host_block.h"
#include "sim/costed/disaggregation.h"

namespace orrery {

namespace {

template <class Which>
bool any_pool(const Scenario& scenario, Which which) {
  const auto pools = scenario.pools();
  return std::any_of(pools.begin(), pools.end(), [&](const PoolSpec* pool) { return which(*pool); });
}

bool moves_experts(const PoolSpec& pool) { return pool.instance.experts.eplb.moves(); }

bool loads_weights(const PoolSpec& pool) { return pool.start.from != WeightSource::own; }

bool cuts_links(const Scenario& scenario) {
  return std::any_of(scenario.faults.begin(), scenario.faults.end(),
                     [](const FaultSpec& fault) { return !fault.links.empty(); });
}

// The copies of an instance; without a host on the topology they stay on a link of their own.
HostCopies::Seat copies_of(fabric::Routes& routes, const fabric::Topology& topology, const PoolSpec& pool,
                           const std::vector<DeviceId>& gpus) {
  HostCopies::Seat seat;
  std::vector<DeviceId> hosts = hosts_of(routes, topology, gpus);
  if (std::any_of(hosts.begin(), hosts.end(), [](DeviceId h) { return h.is_none(); })) return seat;
  seat.gpus = gpus;
  seat.hosts = std::move(hosts);
  seat.bytes_per_block = host_block_bytes(pool);
  seat.bytes_per_second = pool.instance.hardware.pcie_bandwidth.value.value();
  return seat;
}

// A fault that leaves an instance's ranks no way is one of a GPU: what becomes of the instance is said there.
Status check_ways(const Scenario& scenario, const std::vector<std::vector<LinkSide>>& sides) {
  const fabric::Topology& topology = *scenario.topology;
  for (const FaultSpec& fault : scenario.faults) {
    if (fault.factor > 0 || fault.links.empty()) continue;
    fabric::Routes routes(topology);
    for (const std::uint32_t link : fault.links) {
      routes.fail(fabric::LinkId(link));
      routes.fail(fabric::Topology::reverse(fabric::LinkId(link)));
    }
    const auto cut = [&](fabric::LinkId link) { return routes.failed(link); };
    for (std::size_t i = 0; i < sides.size(); ++i) {
      for (std::size_t s = 0; s < sides[i].size(); ++s) {
        const LinkSide& side = sides[i][s];
        if (std::none_of(side.links.begin(), side.links.end(), cut)) continue;
        if (link_side(routes, topology, side.kind, side.groups).ok()) continue;
        const std::string instance = " instance " + std::to_string(i);
        if (s < inside_side())
          return invalid_input(fault.name + " leaves" + instance +
                                   " no way to its host's memory, which it copies KV to and from; give a "
                                   "factor",
                               {}, "faults");
        return invalid_input(fault.name + " leaves no way between the ranks of" + instance +
                                 "; say kind: gpu for an instance that is lost, or give a factor",
                             {}, "faults");
      }
    }
  }
  return ok_status();
}

}  // namespace

bool has_decoders(const Scenario& scenario) {
  return any_pool(scenario, [](const PoolSpec& pool) { return pool.role == PoolRole::decode; });
}

// What a decode instance of SGLang retracts waits in host memory.
bool copies_to_host(const PoolSpec& pool) {
  const bool retracts = pool.role == PoolRole::decode && pool.instance.engine.engine == "sglang";
  return pool.memory.host_blocks > 0 || retracts;
}

double host_block_bytes(const PoolSpec& pool) { return host_block_bytes(pool.instance, pool.memory).value(); }

Result<std::unique_ptr<FabricTransport>> make_transport(const Scenario& scenario) {
  if (scenario.topology == nullptr) return std::unique_ptr<FabricTransport>();
  const bool flows = is_disaggregated(scenario.pools()) || any_pool(scenario, copies_to_host) ||
                     any_pool(scenario, moves_experts) || cuts_links(scenario) ||
                     any_pool(scenario, loads_weights);
  if (!flows) return std::unique_ptr<FabricTransport>();
  ORRERY_TRY(seats, kv_seats(*scenario.topology, scenario.pools(), scenario.pd));
  const ModelSpec& model = scenario.pool.instance.model;
  auto transport = std::make_unique<FabricTransport>(
      *scenario.topology, std::move(seats),
      FabricTransport::Model{.kv_heads = model.kv_heads,
                             .latent = model.latent.present(),
                             .copies_in_turn = scenario.pool.instance.engine.engine == "tensorrt-llm"},
      duration_from_seconds(kv_transfer_floor.value));
  if (any_pool(scenario, loads_weights)) {
    ORRERY_TRY(placed, seat_instances(*scenario.topology, scenario.pools(), scenario.pd));
    std::vector<std::vector<DeviceId>> gpus;
    for (const FabricTransport::Seat& seat : placed) gpus.push_back(seat.gpus);
    transport->load_from(weight_plans(*scenario.topology, scenario.pools(), gpus));
  }
  return transport;
}

Status share_links(const Scenario& scenario, const std::vector<CostModelExecutor*>& executors, Executor& all,
                   FabricTransport& transport) {
  const auto pools = scenario.pools();
  ORRERY_TRY(seats, seat_instances(*scenario.topology, pools, scenario.pd));
  fabric::Routes routes(*scenario.topology);
  std::vector<std::vector<LinkSide>> sides;
  std::vector<HostCopies::Seat> copies;
  bool any_links = false, any_copies = false;
  for (const PoolSpec* pool : pools) {
    for (std::int32_t i = 0; i < pool->engines(); ++i) {
      const std::vector<DeviceId>& gpus = seats[sides.size()].gpus;
      copies.emplace_back();
      if (copies_to_host(*pool)) copies.back() = copies_of(routes, *scenario.topology, *pool, gpus);
      const bool host_memory = !copies.back().gpus.empty();
      ORRERY_TRY(own, link_sides(routes, *scenario.topology, gpus, pool->instance.plan, host_memory));
      const bool in_a_node = !fabric::crosses_nodes(*scenario.topology, gpus);
      if (in_a_node || pool->instance.plan.pp > 1)
        compare_rates(pool->instance.hardware, pool->instance.plan, own);
      any_links |= std::any_of(own.begin(), own.end(), [](const LinkSide& s) { return !s.links.empty(); });
      any_copies |= host_memory;
      sides.push_back(std::move(own));
    }
  }
  if (!any_links) return ok_status();
  ORRERY_TRY_STATUS(check_ways(scenario, sides));
  transport.share(std::move(sides), [&all](InstanceId instance, SimTime at) { all.cut(instance, at); });
  if (any_copies) transport.share_copies(std::move(copies));
  std::size_t first = 0;
  for (std::size_t p = 0; p < pools.size(); ++p) {
    executors[p]->share_links(&transport, first);
    if (any_copies) executors[p]->copy_over_fabric();
    first += static_cast<std::size_t>(pools[p]->engines());
  }
  return ok_status();
}

}  // namespace orrery
