#include "sim/costed/disaggregation.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "sim/costed/plan_links.h"
#include "sim/fabric/presets.h"
#include "sim/fabric/routes.h"

namespace orrery {

namespace {

// Which of our parts a preset's boards hold.
struct Board {
  const char *preset, *hardware;
};
constexpr std::array boards{Board{"hopper-8", "h100"},   Board{"hopper-8", "h200"},
                            Board{"hopper-8", "h20"},    Board{"mi300x-8", "mi300x"},
                            Board{"mi325x-8", "mi325x"}, Board{"l40s-8", "l40s"},
                            Board{"r9700-8", "r9700"}};

const char* preset_of(const std::string& hardware) {
  for (const Board& board : boards)
    if (hardware == board.hardware) return board.preset;
  return nullptr;
}

bool has_window(const ModelSpec& model) {
  return std::any_of(model.layer_kinds.begin(), model.layer_kinds.end(),
                     [](const LayerKind& kind) { return kind.sliding_window > 0; });
}

void check_engine(const Yaml& node, const PoolSpec& pool) {
  const EngineProfile& engine = pool.instance.engine;
  const Yaml role = node.optional("role");
  if (engine.engine != "vllm")
    return node.optional("engine").fail(
        "prefill and decode apart are modelled on vllm only (NixlConnector), "
        "not on " +
        engine.engine + "; take vllm-0.24, or role: mixed");
  if (pool.role == PoolRole::decode && engine.settings.by_priority)
    role.fail("a decode pool that schedules by priority is not modelled; leave scheduling_policy out");
  if (engine.settings.kv_offload_bytes > 0)
    role.fail(
        "KV blocks in host memory beside prefill and decode apart are not modelled; leave "
        "kv_offloading_size out");
  if (has_window(pool.instance.model))
    node.optional("model").fail("sliding windows with prefill and decode apart are not modelled");
  const InstanceSpec& instance = pool.instance;
  if (instance.plan.pp > 1) role.fail("pp above 1 in a prefill or decode pool is not modelled");
  if (engine.settings.stream_interval > 1)
    role.fail("stream_interval above 1 with prefill and decode apart is not modelled");
}

// What NIXL's handshake compares (nixl/base_worker.py), and what its rank mapping asserts.
void check_pair(const Yaml& node, const PoolSpec& pool, const PoolSpec& other) {
  const auto unlike = [&](const char* what, const std::string& mine, const std::string& theirs,
                          const char* key) {
    const Yaml at = node.optional(key);
    (at.present() ? at : node.optional("role"))
        .fail(std::string(what) + " must be that of pool " + quote(other.name) + " (" + theirs + "), not " +
              mine + ": blocks travel as they are");
  };
  const SchedulerSettings &a = pool.instance.engine.settings, &b = other.instance.engine.settings;
  if (a.block_size != b.block_size)
    unlike("the block size", std::to_string(a.block_size), std::to_string(b.block_size), "engine_args");
  const DType mine = pool.instance.model.kv_dtype, theirs = other.instance.model.kv_dtype;
  if (mine != theirs) unlike("the KV cache's type", to_string(mine), to_string(theirs), "kv_cache_dtype");
  const std::int32_t tp = pool.instance.plan.tp, tp_other = other.instance.plan.tp;
  if (std::max(tp, tp_other) % std::min(tp, tp_other) != 0)
    node.optional("role").fail("tp = " + std::to_string(tp) + " and tp = " + std::to_string(tp_other) +
                               " of pool " + quote(other.name) + " do not divide one another");
}

// What to write where a topology is missing.
std::string example_of(const std::vector<const PoolSpec*>& pools) {
  std::int64_t gpus = 0;
  const char* preset = preset_of(pools.front()->instance.hardware.name);
  for (const PoolSpec* pool : pools) {
    gpus += pool->gpus();
    const char* other = preset_of(pool->instance.hardware.name);
    if (preset == nullptr || other == nullptr || std::string(preset) != other)
      return "a topology file (docs/fabric.md)";
  }
  if (gpus <= 8) return std::string("{preset: ") + preset + "}";
  return std::string("{preset: ") + preset + ", nodes: " + std::to_string((gpus + 7) / 8) +
         ", nics_per_node: 8, nic_gbps: 400}";
}

// Every board that Orrery has profiles of joins at most so many GPUs.
constexpr std::int32_t widest_board = 8;

// Without a topology all of an instance's collectives are priced inside one scale-up domain.
void check_widths(const Yaml& deployment, const std::vector<const PoolSpec*>& pools) {
  const Yaml list = deployment.optional("pools");
  const std::vector<Yaml> nodes = list.present() ? list.items() : std::vector<Yaml>{deployment};
  for (std::size_t i = 0; i < pools.size() && i < nodes.size(); ++i) {
    const std::int32_t gpus = pools[i]->instance.plan.gpus();
    if (gpus <= widest_board) continue;
    nodes[i]
        .optional("parallel")
        .fail("an instance of " + std::to_string(gpus) +
              " GPUs stands on several nodes, whose network is not " +
              "known; add deployment.topology, for example topology: " + example_of(pools));
  }
}

void read_pd(const Yaml& pd) {
  if (const Yaml transfer = pd.optional("transfer"); transfer.present()) {
    if (transfer.choice({"whole", "layerwise"}) == 1)
      transfer.fail(
          "layerwise transfers are not modelled by this version of Orrery: vLLM's NixlConnector, "
          "which is, moves a prompt as a whole; expected whole");
  }
  if (pd.optional("retry").integer(1, 0) != 1)
    pd.optional("retry").fail(
        "no transfer fails without fault injection, which is not modelled; leave it out");
}

}  // namespace

bool is_disaggregated(const std::vector<const PoolSpec*>& pools) {
  return std::any_of(pools.begin(), pools.end(),
                     [](const PoolSpec* pool) { return pool->role != PoolRole::mixed; });
}

void check_roles(const std::vector<Yaml>& nodes, const std::vector<PoolSpec>& pools) {
  const auto first = [&](PoolRole role) {
    return std::find_if(pools.begin(), pools.end(), [&](const PoolSpec& p) { return p.role == role; });
  };
  const auto prefill = first(PoolRole::prefill), decode = first(PoolRole::decode),
             mixed = first(PoolRole::mixed);
  const auto node_of = [&](auto pool) { return nodes[static_cast<std::size_t>(pool - pools.begin())]; };
  if (prefill == pools.end() && decode == pools.end()) return;
  if (mixed != pools.end())
    node_of(mixed).optional("name").fail(
        "a mixed pool beside prefill and decode pools is not modelled; give it "
        "one of their roles");
  if (prefill == pools.end()) node_of(decode).optional("role").fail("a decode pool needs a prefill pool");
  if (decode == pools.end()) node_of(prefill).optional("role").fail("a prefill pool needs a decode pool");
  for (std::size_t i = 0; i < pools.size(); ++i) {
    check_engine(nodes[i], pools[i]);
    for (const PoolSpec& other : pools) {
      if (pools[i].role == PoolRole::decode && other.role == PoolRole::prefill)
        check_pair(nodes[i], pools[i], other);
    }
  }
}

std::shared_ptr<const fabric::Topology> read_fabric(const Yaml& deployment, const std::string& folder,
                                                    const std::vector<const PoolSpec*>& pools,
                                                    Errors& errors) {
  const Yaml node = deployment.optional("topology"), pd = deployment.optional("pd");
  if (pd.present()) read_pd(pd);
  const bool apart = is_disaggregated(pools);
  if (!apart && pd.present()) pd.fail("there are no prefill and decode pools; leave it out");
  if (!node.present()) check_widths(deployment, pools);
  if (!apart && !node.present()) return nullptr;
  if (!node.present()) {
    deployment.optional("pools").fail(
        "prefill and decode pools need deployment.topology, on which their KV "
        "travels; for example topology: " +
        example_of(pools));
    return nullptr;
  }
  auto read = fabric::read_topology(node, folder);
  if (!read.ok()) {
    errors.insert(errors.end(), read.errors().begin(), read.errors().end());
    return nullptr;
  }
  const std::string preset = node.optional("preset").scalar_text();
  for (const PoolSpec* pool : pools) {
    const char* board = preset_of(pool->instance.hardware.name);
    if (!preset.empty() && board != nullptr && preset != board)
      node.optional("preset").fail("its boards do not hold the " + pool->instance.hardware.name +
                                   " of pool " + quote(pool->name) + ", " + board +
                                   " do; parts that differ need a file");
  }
  return std::make_shared<const fabric::Topology>(std::move(read).value());
}

namespace {

// Where the next instance begins: where it is; on the next node when what is left of this one cannot hold it;
// on a node of its own when no node can.
std::size_t first_seat(const fabric::Topology& topology, std::size_t next, std::size_t width) {
  const std::vector<DeviceId>& gpus = topology.gpus();
  const auto node_at = [&](std::size_t i) { return topology.device(gpus[i]).node; };
  const auto fits = [&](std::size_t i) {
    const bool begins = i == 0 || node_at(i - 1) != node_at(i);
    return node_at(i) == node_at(i + width - 1) || begins;
  };
  while (next + width <= gpus.size() && !fits(next)) ++next;
  return next;
}

}  // namespace

Result<std::vector<FabricTransport::Seat>> seat_instances(const fabric::Topology& topology,
                                                          const std::vector<const PoolSpec*>& pools) {
  const std::vector<DeviceId>& gpus = topology.gpus();
  std::vector<FabricTransport::Seat> seats;
  std::size_t next = 0;
  for (const PoolSpec* pool : pools) {
    const auto width = static_cast<std::size_t>(pool->instance.plan.gpus());
    const double bytes =
        pool->memory.kv_bytes_per_token.value() * static_cast<double>(pool->memory.block_size);
    for (std::int32_t i = 0; i < pool->engines(); ++i) {
      next = first_seat(topology, next, width);
      if (next + width > gpus.size()) {
        return make_error(ErrorKind::infeasible,
                          "topology " + topology.name + " has " + std::to_string(gpus.size()) +
                              " GPUs, too few for instance " + std::to_string(seats.size()) + " (pool " +
                              quote(pool->name) + ", " + std::to_string(width) +
                              " GPUs); add nodes, or take fewer replicas");
      }
      FabricTransport::Seat seat{
          .gpus = {}, .bytes_per_block = round_half_even(bytes), .ranks = pool->instance.plan.dp};
      seat.gpus.assign(gpus.begin() + static_cast<std::ptrdiff_t>(next),
                       gpus.begin() + static_cast<std::ptrdiff_t>(next + width));
      seats.push_back(std::move(seat));
      next += width;
    }
  }
  if (!is_disaggregated(pools)) return seats;
  fabric::Routes routes(topology);
  for (const auto& from : seats)
    for (const auto& to : seats)
      if (!routes.reachable(from.gpus.front(), to.gpus.front()))
        return make_error(ErrorKind::invalid_input, "topology " + topology.name + " has no way from " +
                                                        topology.device(from.gpus.front()).name + " to " +
                                                        topology.device(to.gpus.front()).name +
                                                        "; nodes need NICs (nics_per_node)");
  return seats;
}

Status place_pools(const fabric::Topology& topology, const std::vector<PoolSpec*>& pools) {
  ORRERY_TRY(seats, seat_instances(topology, {pools.begin(), pools.end()}));
  std::size_t first = 0;
  for (PoolSpec* pool : pools) {
    auto links = plan_links(topology, seats[first].gpus, pool->instance.plan);
    if (!links.ok()) {
      Errors errors = links.errors();
      for (Error& error : errors) error.message = "pool " + quote(pool->name) + ": " + error.message;
      return errors;
    }
    pool->instance.links = std::move(links).value();
    first += static_cast<std::size_t>(pool->engines());
  }
  return ok_status();
}

}  // namespace orrery
