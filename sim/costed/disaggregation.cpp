#include "sim/costed/disaggregation.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "costmodel/expert_exchange.h"
#include "costmodel/host_block.h"
#include "costmodel/stages.h"
#include "sim/costed/image_processor.h"
#include "sim/costed/plan_links.h"
#include "sim/costed/weight_loads.h"
#include "sim/fabric/presets.h"
#include "sim/fabric/routes.h"

namespace orrery {

const fabric::Figure kv_lease{30, fabric::FigureKind::published,
                              "default of kv_lease_duration, vLLM 0.24.0, "
                              "distributed/kv_transfer/kv_connector/v1/nixl/base_scheduler.py"};

const fabric::Figure mooncake_hold{
    480, fabric::FigureKind::published,
    "default of VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT, vLLM 0.24.0, vllm/envs.py"};

const fabric::Figure sglang_heartbeat{
    5, fabric::FigureKind::published,
    "default of SGLANG_DISAGGREGATION_HEARTBEAT_INTERVAL, SGLang 0.5.23, srt/environ.py; the second miss "
    "counts (SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE)"};

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

const PoolSpec* first_of(PoolRole role, const std::vector<const PoolSpec*>& pools) {
  const auto it =
      std::find_if(pools.begin(), pools.end(), [&](const PoolSpec* p) { return p->role == role; });
  return it == pools.end() ? nullptr : *it;
}

enum class Transfer : std::uint8_t { whole, layerwise, chunkwise };

// Which connector of the engine moves KV so; a located error where none does.
Transfer read_transfer(const Yaml& pd, const std::string& engine) {
  const Yaml node = pd.optional("transfer");
  const bool sglang = engine == "sglang";
  if (!node.present()) return sglang ? Transfer::chunkwise : Transfer::whole;
  const auto transfer = static_cast<Transfer>(node.choice({"whole", "layerwise", "chunkwise"}));
  if (sglang && transfer != Transfer::chunkwise)
    node.fail(
        "SGLang's backends (mooncake, nixl) send every chunk of a prompt with all its layers; expected "
        "chunkwise");
  if (engine == "tensorrt-llm" && transfer != Transfer::whole)
    node.fail(
        "TensorRT-LLM's PyExecutor sends a context when all of it is computed (layers are the C++ "
        "executor's, or an operator's own); expected whole");
  if (engine == "vllm" && transfer == Transfer::chunkwise)
    node.fail(
        "vLLM has no connector that sends chunks; expected whole (NixlConnector) or layerwise "
        "(MoRIIOConnector in write mode)");
  return transfer;
}

// MoRIIO's ranks write to the rank of their own number.
void check_layerwise(const Yaml& node, const std::vector<const PoolSpec*>& pools) {
  for (const PoolSpec* pool : pools)
    if (pool->instance.speculation.on())
      node.fail(
          "speculation beside layers that leave one by one is not modelled; take whole, or method: off");
  for (const PoolSpec* pool : pools)
    if (pool->role != PoolRole::mixed && pool->instance.engine.settings.kv_offload_bytes > 0)
      node.fail(
          "a tier in host memory beside layers that leave one by one is not modelled; take whole, or "
          "leave kv_offloading_size out");
  for (const PoolSpec* pool : pools)
    if (pool->instance.plan.dp > 1)
      node.fail("layers of ranks of attention data parallelism are not modelled; take whole, or no dp");
  if (first_of(PoolRole::encoder, pools) != nullptr)
    node.fail("encoder pools beside layers that leave one by one are not modelled; take whole");
  const std::int32_t tp = first_of(PoolRole::prefill, pools)->instance.plan.tp;
  for (const PoolSpec* pool : pools) {
    if (pool->role != PoolRole::mixed && pool->instance.plan.tp != tp)
      node.fail("MoRIIO's ranks write to the rank of their own number, and pool " + quote(pool->name) +
                " has tp = " + std::to_string(pool->instance.plan.tp) + ", not " + std::to_string(tp) +
                "; give both sides one tp, or take whole");
  }
}

void read_local(const Yaml& pd, const std::vector<const PoolSpec*>& pools, bool sglang, PdRules& rules) {
  const Yaml node = pd.optional("local_below");
  rules.local_below = node.integer(0, 0);
  if (rules.local_below > 0 && first_of(PoolRole::encoder, pools) != nullptr)
    node.fail("prompts that are not split, beside encoder pools, are not modelled; leave it out");
  if (rules.local_below > 0 && sglang && first_of(PoolRole::mixed, pools) == nullptr)
    node.fail(
        "SGLang's decode servers compute no prompts; give short ones a pool with role: mixed, or leave it "
        "out");
}

}  // namespace

bool is_disaggregated(const std::vector<const PoolSpec*>& pools) {
  return std::any_of(pools.begin(), pools.end(),
                     [](const PoolSpec* pool) { return pool->role != PoolRole::mixed; });
}

namespace {

enum class Connector : std::uint8_t { moriio, nixl, mooncake, other };

// Whose reads they are: only NIXL's were measured, descriptor by descriptor. The others' take the links'
// time.
Connector read_connector(const Yaml& pd, bool vllm, Transfer transfer) {
  const Yaml node = pd.optional("connector");
  if (!vllm) {
    if (node.present()) node.fail("vLLM's connectors go by this key; leave it out");
    return Connector::other;
  }
  const bool whole = transfer == Transfer::whole;
  if (!node.present()) return whole ? Connector::nixl : Connector::moriio;
  const auto connector = static_cast<Connector>(node.choice({"moriio", "nixl", "mooncake"}));
  if (connector != Connector::moriio && !whole)
    node.fail(std::string(connector == Connector::nixl ? "NixlConnector" : "MooncakeConnector") +
              " moves whole prompts; expected moriio, or transfer: whole");
  return connector;
}

// Whatever MoRIIO's transfer is.
void check_groups(const Yaml& pd, Connector connector, const std::vector<const PoolSpec*>& pools) {
  if (connector != Connector::moriio) return;
  const Yaml named = pd.optional("connector");
  for (const PoolSpec* pool : pools)
    if (kv_cache_groups(pool->instance.model, pool->instance.engine).windowed > 0)
      (named.present() ? named : pd.optional("transfer"))
          .fail(
              "MoRIIOConnector is none of those that keep groups of layers apart (SupportsHMA), and vLLM "
              "turns them off beside it; say engine_args: {disable_hybrid_kv_cache_manager: true}, or take "
              "connector: nixl with transfer: whole");
}

// Which stages may meet.
void check_stages(const Yaml& deployment, Connector connector, const std::vector<const PoolSpec*>& pools) {
  std::int32_t prefill = 1, decode = 1;
  for (const PoolSpec* pool : pools) {
    if (pool->role == PoolRole::prefill) prefill = std::max(prefill, pool->instance.plan.pp);
    if (pool->role == PoolRole::decode) decode = std::max(decode, pool->instance.plan.pp);
  }
  if (std::max(prefill, decode) == 1) return;
  const Yaml pd = deployment.optional("pd");
  const Yaml at =
      pd.optional("connector").present() ? pd.optional("connector") : deployment.optional("pools");
  if (connector == Connector::nixl)
    at.fail(
        "NixlConnector refuses pipeline stages (set_xfer_handshake_metadata_pp_aware, "
        "kv_connector/v1/base.py "
        "of 0.24.0: \"does not support PP-disaggregated KV transfer\"); take pd.connector: mooncake, or pp: "
        "1");
  else if (connector == Connector::moriio)
    at.fail("MoRIIOConnector knows no pipeline stages; take pd.connector: mooncake, or pp: 1");
}

}  // namespace

PdRules read_pd(const Yaml& deployment, const std::vector<const PoolSpec*>& pools) {
  PdRules rules;
  const Yaml pd = deployment.optional("pd");
  const PoolSpec* const prefill = first_of(PoolRole::prefill, pools);
  if (prefill == nullptr) {
    if (pd.is_map()) pd.entries();
    return rules;
  }
  const std::string& engine = prefill->instance.engine.engine;
  const bool sglang = engine == "sglang", vllm = engine == "vllm";
  const Transfer transfer = read_transfer(pd, engine);
  rules.at_once = transfer != Transfer::whole;
  if (transfer == Transfer::layerwise) {
    rules.layers = static_cast<std::int32_t>(prefill->instance.model.layers);
    check_layerwise(pd.optional("transfer"), pools);
  }
  rules.retries = static_cast<std::int32_t>(pd.optional("retry").integer(1, 0, 1000));
  const Yaml policy = pd.optional("kv_load_failure_policy");
  rules.recompute_failed = policy.present() && policy.choice({"fail", "recompute"}) == 1;
  const Connector connector = read_connector(pd, vllm, transfer);
  rules.nixl = connector == Connector::nixl;
  check_groups(pd, connector, pools);
  check_stages(deployment, connector, pools);
  for (const PoolSpec* pool : pools) {
    if (!rules.nixl || pool->instance.engine.nixl) continue;
    deployment.optional("pools").fail(
        "engine profile " + pool->instance.engine.name + " of pool " + quote(pool->name) +
        " has no figures of NIXL's reads (nixl:); add them, or take pd.connector: moriio");
    rules.nixl = false;
  }
  if (sglang) rules.heartbeat = duration_from_seconds(sglang_heartbeat.value);
  if (vllm && transfer == Transfer::whole)
    rules.lease = duration_from_seconds((connector == Connector::mooncake ? mooncake_hold : kv_lease).value);
  rules.lease_extended = connector != Connector::mooncake;
  // The other connectors do not say which blocks they could not load.
  if (rules.recompute_failed && connector != Connector::nixl)
    policy.fail("nothing but vLLM's NixlConnector (transfer: whole) computes a prompt again; expected fail");
  for (const PoolSpec* pool : pools) {  // each reads as its own profile says
    if (!rules.nixl) break;
    const double notice = pool->instance.engine.nixl->idle_notice.value.value();
    rules.idle_notice.insert(rules.idle_notice.end(), static_cast<std::size_t>(pool->engines()),
                             duration_from_seconds(notice));
  }
  read_local(pd, pools, sglang, rules);
  if (rules.local_below == 0 && first_of(PoolRole::mixed, pools) != nullptr)
    deployment.optional("pools").fail(
        "beside prefill and decode pools a mixed one needs deployment.pd.local_below: prompts with fewer "
        "tokens go there");
  return rules;
}

std::shared_ptr<const fabric::Topology> read_fabric(const Yaml& deployment, const std::string& folder,
                                                    const std::vector<const PoolSpec*>& pools,
                                                    Errors& errors) {
  const Yaml node = deployment.optional("topology"), pd = deployment.optional("pd");
  const bool apart = is_disaggregated(pools);
  if (!apart && pd.present()) pd.fail("there are no prefill and decode pools; leave it out");
  if (!node.present()) check_widths(deployment, pools);
  if (!apart && !node.present()) return nullptr;
  if (!node.present()) {
    deployment.optional("pools").fail(
        "prefill and decode pools, and encoder pools, need deployment.topology, on which KV or embeddings "
        "travel; for example topology: " +
        example_of(pools));
    return nullptr;
  }
  auto read = fabric::read_topology(node, folder);
  if (!read.ok()) {
    errors.insert(errors.end(), read.errors().begin(), read.errors().end());
    return nullptr;
  }
  // A file names its boards itself.
  const std::string preset = node.is_map() ? node.optional("preset").scalar_text() : "";
  for (const PoolSpec* pool : pools) {
    const char* board = preset_of(pool->instance.hardware.name);
    if (!preset.empty() && board != nullptr && preset != board)
      node.optional("preset").fail("its boards do not hold the " + pool->instance.hardware.name +
                                   " of pool " + quote(pool->name) + ", " + board +
                                   " do; parts that differ need a file");
  }
  const Yaml list = deployment.optional("pools");
  add_weight_sources(list.present() ? list.items() : std::vector<Yaml>{deployment}, pools, *read);
  return std::make_shared<const fabric::Topology>(std::move(read).value());
}

namespace {

// A block of the NixlConnector is one piece a layer, or two where keys and values stand apart
// (base_worker.py, register_kv_caches, with FlashAttention's cache).
std::int32_t regions(const PoolSpec& pool) {
  const ModelSpec& model = pool.instance.model;
  const std::int64_t latent = model.sparse.present() ? 2 : 1;  // the indexer's keys are a cache of their own
  // Groups of layers share tensors: more blocks, of fewer pieces (`_compute_desc_ids`).
  if (pool.memory.groups.windowed > 0) return static_cast<std::int32_t>(pool.memory.groups.layers * 2);
  const std::int64_t drafting =
      draft_layers_cached(pool.instance.speculation, model, pool.instance.engine.engine);
  return static_cast<std::int32_t>((model.layers + drafting) * (model.latent.present() ? latent : 2));
}

// Of what an instance is sent: a block of all layers, or of one group of them, or an image's embedding.
double bytes_of_block(const PoolSpec& pool) {
  const InstanceSpec& instance = pool.instance;
  if (pool.images_elsewhere) return static_cast<double>(embedding_bytes(instance));
  const auto block = static_cast<double>(pool.memory.block_size);
  const KvCacheGroups& groups = pool.memory.groups;
  if (instance.engine.settings.tensorrt_llm.window > 0)  // of one part of the layers (TensorRtLlmScheduler)
    return instance.model.kv_layer_bytes(instance.plan.tp) *
           static_cast<double>(cached_parts(instance).layers) * block;
  if (groups.windowed > 0)
    return instance.model.kv_layer_bytes(instance.plan.tp) * static_cast<double>(groups.layers) * block;
  if (instance.plan.pp == 1) return pool.memory.kv_bytes_per_token.value() * block;  // else: a stage's
  return instance.model.kv_layer_bytes(instance.plan.tp) *
         static_cast<double>(instance.model.attention_layers()) * block;
}

std::vector<std::int64_t> layers_of_pool(const PoolSpec& pool) {
  return layers_of_stages(pool.instance.model.layers, pool.instance.plan.pp, pool.instance.engine.engine);
}

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
                                                          const std::vector<const PoolSpec*>& pools,
                                                          const PdRules& pd) {
  const std::vector<DeviceId>& gpus = topology.gpus();
  std::vector<FabricTransport::Seat> seats;
  std::size_t next = 0;
  for (const PoolSpec* pool : pools) {
    const auto width = static_cast<std::size_t>(pool->instance.plan.gpus());
    const double bytes = bytes_of_block(*pool);
    for (std::int32_t i = 0; i < pool->engines(); ++i) {
      next = first_seat(topology, next, width);
      if (next + width > gpus.size()) {
        return make_error(ErrorKind::infeasible,
                          "topology " + topology.name + " has " + std::to_string(gpus.size()) +
                              " GPUs, too few for instance " + std::to_string(seats.size()) + " (pool " +
                              quote(pool->name) + ", " + std::to_string(width) +
                              " GPUs); add nodes, or take fewer replicas");
      }
      FabricTransport::Seat seat{.gpus = {},
                                 .bytes_per_block = round_half_even(bytes),
                                 .regions = regions(*pool),
                                 .nixl = pd.nixl ? &*pool->instance.engine.nixl : nullptr,
                                 .ranks = pool->instance.plan.dp,
                                 .layers = layers_of_pool(*pool),
                                 .embeds = pool->role == PoolRole::encoder};
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

Result<std::vector<FabricTransport::Seat>> kv_seats(const fabric::Topology& topology,
                                                    const std::vector<const PoolSpec*>& pools,
                                                    const PdRules& pd) {
  ORRERY_TRY(seats, seat_instances(topology, pools, pd));
  std::size_t at = 0;
  for (const PoolSpec* pool : pools) {
    const ParallelPlan& plan = pool->instance.plan;
    for (std::int32_t i = 0; i < pool->engines(); ++i, ++at)
      if (plan.cp > 1) seats[at].gpus.resize(static_cast<std::size_t>(plan.tp));
  }
  return seats;
}

namespace {

// Point-to-point kernels between experts' ranks were timed with one NIC a GPU: theirs is the topology's.
void put_exchange_on(const fabric::Topology& topology, std::int32_t node, InstanceSpec& instance) {
  if (instance.exchange == nullptr || !instance.exchange->network_link.present()) return;
  const double rate = network_rate_per_gpu(topology, node);
  if (rate <= 0) return;
  ExchangeTable table = *instance.exchange;
  table.network_ratio = rate / table.network_link.value.value();
  instance.exchange = std::make_shared<const ExchangeTable>(std::move(table));
}

}  // namespace

Status place_pools(const fabric::Topology& topology, const std::vector<PoolSpec*>& pools) {
  ORRERY_TRY(seats, seat_instances(topology, {pools.begin(), pools.end()}, {}));
  std::size_t first = 0;
  for (PoolSpec* pool : pools) {
    auto links = plan_links(topology, seats[first].gpus, pool->instance.plan,
                            pool->instance.engine.settings.context.cache_ranks,
                            pool->instance.engine.engine != "sglang");
    if (!links.ok()) {
      Errors errors = links.errors();
      for (Error& error : errors) error.message = "pool " + quote(pool->name) + ": " + error.message;
      return errors;
    }
    pool->instance.links = std::move(links).value();
    put_exchange_on(topology, topology.device(seats[first].gpus.front()).node, pool->instance);
    const auto nodes_of = [&](const FabricTransport::Seat& seat) {
      std::vector<std::int32_t> nodes;
      for (const DeviceId gpu : seat.gpus)
        nodes.push_back(topology.device(gpu).node - topology.device(seat.gpus.front()).node);
      return nodes;
    };
    for (std::int32_t i = 1; i < pool->engines(); ++i) {
      if (nodes_of(seats[first + static_cast<std::size_t>(i)]) == nodes_of(seats[first])) continue;
      return make_error(
          ErrorKind::invalid_input,
          "pool " + quote(pool->name) + ": instance " + std::to_string(i) +
              " stands on other nodes of topology " + topology.name + " than the first (" +
              "GPUs of one node there, of several here, or otherwise shared out), and one price is " +
              "that of all; give such instances pools of their own, in the order of the nodes");
    }
    first += static_cast<std::size_t>(pool->engines());
  }
  return ok_status();
}

}  // namespace orrery
